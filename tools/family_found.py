"""Texts of docs/family.md on how a token finds checkpoints: scores, shared routing, and the gates computed from them."""

from __future__ import annotations

from family_choices import Choice, Part

NO_PAPER = "no paper; [decision 12](decisions/0012-routing.md)."

FINDING = Part(
    "Finding a checkpoint",
    """A score says how well a checkpoint matches a token, and is shared by the heads; each head computes a gate from it. The keys
    are `router`, `router_dim`, `routing`, `gate`, `temperature` and `gate_distance`, for the caches `gated`, `soup` and
    `sparse`. Queries and keys are u = l2(x W_u) and k = l2(c W_r) of width U, from the token x and a write c.

    Costs are for N readable checkpoints, without the projections W_u and W_r. The last two columns are counted as for segments.
    How much a small model recalls with each choice is measured on [another page](recall.md).""",
    (
        Choice(
            'router="mean"',
            {"router": "mean"},
            "The score of a checkpoint uses the mean of the routing keys of its writes.",
            "segments with one topic; the default",
            "find a segment by what most of its writes have in common, with one product.",
            "find a segment by a single write: its share of the mean is 1 / C.",
            "U floats per checkpoint, and U for the online segment.",
            "N * U.",
            "arXiv 2602.24281, eqs. 9 and 10; keys normalised in their own width, and the temperature, are this library's.",
            "score_n = <u, mean of k over the writes of n>",
        ),
        Choice(
            'router="subblock:m"',
            {"router": "subblock:4"},
            "The score of a checkpoint uses its best m consecutive tokens: a smooth maximum over the means of its sub-blocks, "
            "whose sharpness b is not learned.",
            "segments that are read for a few consecutive tokens",
            "find a segment by one part of it.",
            "keep sub-blocks of m tokens if checkpoints merge: their number stays the same, so each becomes twice as long.",
            "U * C / m floats per checkpoint, and as many for the online segment.",
            "N * U * C / m, and one exponential per sub-block.",
            NO_PAPER,
            "score_n = log sum_j exp(b <u, s_nj>) / b,   s_nj the mean of k over sub-block j,   b = 8 sqrt(m / rate)",
            note="Counts are for m = 4.",
        ),
        Choice(
            'routing="shared"',
            {"routing": "shared"},
            "A layer has no u and k of its own; it uses those of the last earlier memory layer with own routing "
            '(`routing="own"`, the default).',
            "deep models whose layers read the same checkpoints",
            "save W_u and W_r of a layer, and its stored routing keys; its gates are its own.",
            "be the first memory layer, or read other checkpoints than the layer whose routing it shares. Both must seal the "
            'same tokens, so `evict="use"` raises ConfigError.',
            "none; all layers use the first layer's keys.",
            "that of the router: scores are computed again; W_u and W_r are not applied.",
            NO_PAPER,
            note="Counts are for the second of two layers.",
        ),
        Choice(
            'gate="softmax"',
            {"gate": "softmax"},
            "Gates sum to 1 over the online memory and the checkpoints.",
            "selecting one among many; `soup` of MLP memories, whose weights it averages",
            "set the weight of the online memory near 0; keep the sum of weights at 1, for any number of checkpoints.",
            "read two checkpoints with full weight. Each new checkpoint lowers the weights of the others.",
            "none.",
            "H * (N + 1) exponentials, and U (or U * C / m) for the score of the online segment.",
            "as for the cache `gated`; one learned temperature and bias per head, and a learned bias of the online memory.",
            "z_hn = e^{a_h} sqrt(w) score_n + b_h,   z_h,online = e^{a_h} sqrt(w) score_online + o_h,   g = softmax(z_h)\n"
            "w: writes of a segment, or of a sub-block;   initially e^{a_h} = 1 / temperature (0.125), b = o = 0",
        ),
        Choice(
            'gate="sigmoid"',
            {"gate": "sigmoid"},
            "Each checkpoint has an independent gate; the online memory has weight 1.",
            "reading several checkpoints at once, or none; the default",
            "read any number of checkpoints with full weight, and ignore all of them.",
            "lower the weight of the online memory. Gates of 1/2 for checkpoints that do not match add up with their number (a "
            "score of 0 gives 1/2, until b_h is learned).",
            "none.",
            "H * N exponentials.",
            "no paper; the logits are those of softmax.",
            "g_hn = 1 / (1 + e^{-z_hn}),   g_online = 1,   z as with softmax",
        ),
        Choice(
            'gate_distance="alibi"',
            {"gate_distance": "alibi"},
            "A gate's logit decreases with the age of its checkpoint, in segments: 1 for the newest, 0 for the online memory.",
            "some heads that read recent segments, and others that read distant ones",
            "prefer the newer of checkpoints that match equally; in the last head the preference is small (1/256 per segment).",
            "change the selection of `sparse` (it uses scores alone); learn its slopes; resolve ages inside a span, which has "
            "the age of its last segment.",
            "none.",
            "H * N.",
            "arXiv 2108.12409, over segments instead of tokens.",
            "z_hn <- z_hn - 2^{-8 (h + 1) / H} age_n,   h = 0 .. H - 1",
        ),
    ),
)
