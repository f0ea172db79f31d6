"""Texts of docs/family.md on how a token finds checkpoints: scores, shared routing, and the gates computed from them."""

from __future__ import annotations

from family_choices import Choice, Part

NO_PAPER = "no paper; [decision 12](decisions/0012-routing.md)."

FINDING = Part(
    "Finding a checkpoint",
    """A score says how well a checkpoint fits a token. All heads share the score; each head computes its own gate from it. The
    keys are `router`, `router_dim`, `routing`, `gate`, `temperature` and `gate_distance`, for the caches `gated`, `soup` and
    `sparse`. Routing queries u = l2(x W_u) and routing keys k = l2(c W_r) have width U; x is the token, c a write.

    Costs are for N checkpoints that can be read, without the projections W_u and W_r. The last two columns are counted as in
    the table of segments. [Recall](recall.md) compares how much small models recall with each of them.""",
    (
        Choice(
            'router="mean"',
            {"router": "mean"},
            "The score of a checkpoint is computed from the mean of the routing keys of its writes.",
            "segments that are about one thing; the default",
            "find a segment by what most of its writes have in common, with one product.",
            "find a segment by one write among many: one write is 1 / C of the mean.",
            "U floats a checkpoint, and U for the online segment.",
            "N * U.",
            "arXiv 2602.24281, eqs. 9 and 10; unit keys of width U and the temperature are additions of this library.",
            "score_n = <u, mean of k over the writes of n>",
        ),
        Choice(
            'router="subblock:m"',
            {"router": "subblock:4"},
            "The score of a checkpoint is that of its best m consecutive tokens: a smooth maximum over the means of its "
            "sub-blocks. Its sharpness b is not learned.",
            "segments of which a few consecutive tokens matter",
            "find a segment by one part of it.",
            "keep sub-blocks of m tokens when checkpoints merge: their number stays the same, and each becomes twice as long.",
            "U * C / m floats a checkpoint, and as many for the online segment.",
            "N * U * C / m, and as many exponentials as there are sub-blocks.",
            NO_PAPER,
            "score_n = log sum_j exp(b <u, s_nj>) / b,   s_nj the mean of k over sub-block j,   b = 8 sqrt(m / rate)",
            note="Counts are for m = 4.",
        ),
        Choice(
            'router="anchor:m"',
            {"router": "anchor:4"},
            "The routing keys of a checkpoint are read from its state: m learnt tokens a_j ask the memory, and a projection of "
            "each answer is a key. The score is a smooth maximum over the keys.",
            "segments that are found by what their states answer",
            "find a segment by what its memory still holds, not by what was written to it.",
            'find a write that its state has forgotten; be combined with `segments="logarithmic"` or `evict="merge"`.',
            "U * m floats a checkpoint, and as many for the online segment.",
            "N * U * m, and m reads of each state when it is sealed; a step of one token reads the online state m times.",
            "arXiv 2608.12435; the smooth maximum over several anchors is an addition of this library.",
            "score_n = log sum_j exp(8 <u, k_nj>) / 8,   k_nj = l2(M_n(q(a_j)) W_r)",
            note="Counts are for m = 4.",
        ),
        Choice(
            'routing="shared"',
            {"routing": "shared"},
            "A layer has no u and k of its own. It uses those of the last memory layer before it that has its own "
            '(`routing="own"`, the default).',
            "deep models whose layers read the same checkpoints",
            "save W_u, W_r and the stored routing keys of a layer. The layer still computes its own gates.",
            "be used in the first memory layer, or read other checkpoints than the earlier layer. Both layers must seal the same "
            'tokens; therefore `evict="use"` raises ConfigError.',
            "none; the keys of the earlier layer are used.",
            "that of the router: scores are computed again; the products with W_u and W_r are not.",
            NO_PAPER,
            note="Counts are for the second of two layers.",
        ),
        Choice(
            'gate="softmax"',
            {"gate": "softmax"},
            "The gates of the online memory and of all checkpoints add up to 1.",
            "choosing one among many; `soup` of MLP memories, whose weights it averages",
            "set the weight of the online memory near 0; keep the sum of weights at 1 for any number of checkpoints.",
            "read two checkpoints with weight 1. Each new checkpoint reduces the weights of the others.",
            "none.",
            "H * (N + 1) exponentials, and U (or U * C / m) for the score of the online segment.",
            "as for the cache `gated`; a temperature and a bias a head, and a bias of the online memory, are learned.",
            "z_hn = e^{a_h} sqrt(w) score_n + b_h,   z_h,online = e^{a_h} sqrt(w) score_online + o_h,   g = softmax(z_h)\n"
            "w: writes of a segment, or of a sub-block;   initially e^{a_h} = 1 / temperature (0.125), b = o = 0",
        ),
        Choice(
            'gate="sigmoid"',
            {"gate": "sigmoid"},
            "Each checkpoint has an independent gate; the weight of the online memory is 1.",
            "reading several checkpoints at once, or none; the default",
            "read any number of checkpoints with weight 1, or none.",
            "lower the weight of the online memory. Before b_h is learned, a score of 0 gives a gate of 1/2; the reads of many "
            "checkpoints that do not fit then add up.",
            "none.",
            "H * N exponentials.",
            "no paper; the logits are those of softmax.",
            "g_hn = 1 / (1 + e^{-z_hn}),   g_online = 1,   z as with softmax",
        ),
        Choice(
            'gate_distance="alibi"',
            {"gate_distance": "alibi"},
            "A gate's logit decreases with the age of its checkpoint in segments: 1 for the newest, 0 for the online memory.",
            "heads with different ranges: some read near segments, others far ones",
            "prefer the newer of two checkpoints that fit equally well; in the last head the effect is small (1/256 a segment).",
            "change which checkpoints `sparse` selects (only scores do); learn its slopes; tell ages inside a span apart: a span "
            "has the age of its last segment.",
            "none.",
            "H * N.",
            "arXiv 2108.12409, over segments instead of tokens.",
            "z_hn <- z_hn - 2^{-8 (h + 1) / H} age_n,   h = 0 .. H - 1",
        ),
    ),
)
