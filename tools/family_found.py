"""Words of docs/family.md on how a token finds checkpoints: scores, whose they are, and the gates made of them."""

from __future__ import annotations

from family_choices import Choice, Part

NO_PAPER = "no paper; [decision 12](decisions/0012-routing.md)."

FINDING = Part(
    "Finding a checkpoint",
    """A score says how well a checkpoint fits a token, and is shared by the heads; each head computes a gate from it. The keys
    are `router`, `router_dim`, `routing`, `gate`, `temperature` and `gate_distance`, for the caches `gated`, `soup` and
    `sparse`. With queries and keys u = l2(x W_u) and k = l2(c W_r) of width U, from the token x and a write c:

    Costs are for N checkpoints that can be read; W_u and W_r are left out, as all projections are. The last two columns are
    counted as for segments. How much a small model recalls with each of them is measured on a [page of its own](recall.md).""",
    (
        Choice(
            'router="mean"',
            {"router": "mean"},
            "A checkpoint is found by the mean of the routing keys of its writes.",
            "segments that are about one thing; the default",
            "find a segment by what most of its writes have in common, at one product.",
            "find it by one write in many: that counts 1 / C of the mean.",
            "U floats a checkpoint, and U for the online segment.",
            "N * U.",
            "arXiv 2602.24281, eqs. 9 and 10; unit keys of their own width and the temperature are this library's.",
            "score_n = <u, mean of k over the writes of n>",
        ),
        Choice(
            'router="subblock:m"',
            {"router": "subblock:4"},
            "A checkpoint is found by its best m tokens in a row: a smooth maximum over the means of its sub-blocks, "
            "whose sharpness b is not learned.",
            "segments that are read for a few tokens in a row",
            "find a segment by one part of it.",
            "keep sub-blocks of m tokens where checkpoints merge: there are as many as before, and each is twice as long.",
            "U * C / m floats a checkpoint, and as many for the online segment.",
            "N * U * C / m, and as many exponentials as there are sub-blocks.",
            NO_PAPER,
            "score_n = log sum_j exp(b <u, s_nj>) / b,   s_nj the mean of k over sub-block j,   b = 8 sqrt(m / rate)",
            note="Counted with m = 4.",
        ),
        Choice(
            'routing="shared"',
            {"routing": "shared"},
            "A layer has no u and k of its own, and takes those of the last memory layer before it that has "
            '(`routing="own"`, the default).',
            "deep models whose layers read the same places",
            "save a layer W_u and W_r, and the routing keys that it would keep; its gates are its own.",
            "be the first memory layer, or read other places than the layer it follows. Both must seal the same tokens, so "
            'that `evict="use"` raises ConfigError.',
            "none; the first layer's keys serve all.",
            "that of the router: scores are computed again; W_u and W_r are not.",
            NO_PAPER,
            note="Counted in the second of two layers.",
        ),
        Choice(
            'gate="softmax"',
            {"gate": "softmax"},
            "Gates add up to 1, over the online memory and the checkpoints.",
            "choosing one among many; `soup` of MLP memories, whose weights it averages",
            "set the weight of the online memory near 0; keep the sum of weights at 1, for any number of checkpoints.",
            "read two checkpoints in full. Each new one takes its share from the others.",
            "none.",
            "H * (N + 1) exponentials, and U (or U * C / m) for the score of the online segment.",
            "as of the cache `gated`; a temperature and a bias a head, and a bias of the online memory, are learned.",
            "z_hn = e^{a_h} sqrt(w) score_n + b_h,   z_h,online = e^{a_h} sqrt(w) score_online + o_h,   g = softmax(z_h)\n"
            "w: writes of a segment, or of a sub-block;   e^{a_h} begins at 1 / temperature (0.125), b and o at 0",
        ),
        Choice(
            'gate="sigmoid"',
            {"gate": "sigmoid"},
            "Each checkpoint has a gate by itself; the online memory counts 1.",
            "reading several checkpoints at once, or none; the default",
            "read any number of checkpoints in full, and leave all of them out.",
            "lower the weight of the online memory. Gates of 1/2 for what does not fit add up as checkpoints do (a score of 0 "
            "gives 1/2, until b_h is learned).",
            "none.",
            "H * N exponentials.",
            "no paper; the logits are those of softmax.",
            "g_hn = 1 / (1 + e^{-z_hn}),   g_online = 1,   z as with softmax",
        ),
        Choice(
            'gate_distance="alibi"',
            {"gate_distance": "alibi"},
            "A gate's logit falls with the age of its checkpoint, in segments: 1 for the newest, 0 for the online memory.",
            "heads that read near segments beside heads that read far ones",
            "prefer, of checkpoints that fit alike, the newer; the last head hardly does (1/256 a segment).",
            "change what `sparse` picks (scores alone do); learn its slopes; see age inside a span, which has that of its last "
            "segment.",
            "none.",
            "H * N.",
            "arXiv 2108.12409, over segments instead of tokens.",
            "z_hn <- z_hn - 2^{-8 (h + 1) / H} age_n,   h = 0 .. H - 1",
        ),
    ),
)
