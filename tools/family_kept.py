"""Texts of docs/family.md on what is kept: where segments end, what a full budget removes, and in which dtype."""

from __future__ import annotations

from family_choices import HEADS, SEALED, SEGMENT, Choice, Part, merging
from family_spans import LONGEST, PLACES
from family_spans import SEGMENT as SHOWN

MERGING = ", ".join(f"`{rule}`" for rule in merging())
MEASURED = f"""The last two columns are counts: live checkpoints, and the bytes of everything that a row keeps for them in a
layer, after {SEALED} segments of {SEGMENT} tokens, with H = {HEADS}, K = V = 32, U = 64, and a `gated` memory and cache unless
stated otherwise."""

DRAWN = """The pictures show layers with random weights (`memory` linear) that read a random stream. Horizontal: tokens read so
far; vertical: tokens written. A block is one checkpoint: its width is its lifetime, its height the tokens that it holds. These
tokens were found by gradients: the gradient of a checkpoint with respect to a token is zero if it does not hold the token."""

SEGMENTS = Part(
    "Segments",
    f"""Where a segment ends, and which checkpoints of the past remain: the keys `segments` and `start`. With `start="restart"` a
    segment begins from the rule's initial state, with `start="carry"` from the last state of the previous segment, so every
    checkpoint is a snapshot of the running memory.

    {MEASURED} With `content` it was cut after every {SEGMENT // 2}th token, which makes twice as many segments. n is the number
    of sealed segments.""",
    (
        Choice(
            'segments="constant"',
            {},
            "A segment ends after C writes; every checkpoint is kept.",
            "texts of limited length, and the cache `sparse`",
            "read any past segment separately.",
            "stay small: bank and dense reads grow with the text, unless a budget is set.",
            'n * (P + U) floats (`router="mean"`).',
            "nothing to keep them; a dense cache reads n.",
            "arXiv 2602.24281, as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="logarithmic"',
            {"segments": "logarithmic"},
            "Checkpoints span 1, 2, 4 ... segments: one for each binary digit of n that is 1; the longest span is the oldest.",
            "texts without an end; the presets",
            'keep part of the whole text in few checkpoints; with `start="restart"` all writes, one state per span; with '
            '`start="carry"` snapshots that become sparser with age.',
            "tell segments of one span apart; have a budget.",
            f"l = floor(log2 n) + 1 places, some of them empty, of P + U floats; with restart also l + 1 times the log decays of "
            f"{MERGING} in float32 (H floats; per channel, H * K; vectors, H * V), or one span state per place (other rules, "
            f"and checkpoints in fewer bits).",
            f"a dense cache reads l; restart: less than P / C for merging ({MERGING} in float32), or l more writes (in chunk "
            "programs `delta` and `gated_delta` do them with one product per chunk); carry: nothing.",
            "arXiv 2602.24281, section 3.4; arXiv 2506.04761 (Fenwick tree of states).",
            "37 = 32 + 4 + 1: after 37 segments, spans of segments 1 to 32, 33 to 36, and 37\n"
            "restart: S <- e^{f'} S + S', f' the log decay of the newer one, or the span state that began with the older one\n"
            "carry: S <- S', the newer one",
            ({"memory": "gated_delta"}, {"start": "carry"}),
        ),
        Choice(
            'start="restart"',
            {"start": "restart"},
            "A segment begins from the rule's initial state.",
            "segments that are found and weighted separately; the default",
            "keep segments separate: a checkpoint holds the writes of its own segment, or span, and no others.",
            "replace what an earlier segment sealed: its checkpoint still returns the old value, and a gate belongs to "
            "a segment, not to a key.",
            "none of its own.",
            "nothing; segments of one call are written in parallel.",
            "as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'start="carry"',
            {"start": "carry"},
            "A segment begins from the last state of the previous segment: checkpoints are snapshots of one running memory.",
            "facts that change from segment to segment (`delta`, `gated_delta`)",
            "replace and forget across segments; drop old checkpoints, or merge them, at no cost.",
            "keep segments separate: a checkpoint holds all earlier text, as far as the rule has not forgotten it.",
            "none of its own.",
            "nothing; segments of one call are written one after the other.",
            "as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="content"',
            {"segments": "content"},
            "A segment ends with the write of a token at which the caller cuts, and after C writes at the latest.",
            "texts of lines, speakers or documents that are to be found as units",
            "make one checkpoint per line, however long the other lines are.",
            "hold more than C writes in one segment, or detect where parts of a text end: the caller cuts (`cut`, or `cut_at`).",
            "as with `constant`, and 8 bytes per cut (once per row, not per layer).",
            "as with `constant`; a call computes segment chunks as wide as its longest segment.",
            "no paper; [decision 10](decisions/0010-cuts-and-anchors.md).",
            "write m ends a segment if the caller cuts at one of its tokens, or if it is write C of the segment",
            note=f"Cuts are uneven; one gap exceeds {LONGEST} tokens: there a segment ends because it is full.",
        ),
    ),
    DRAWN,
)


BUDGETS = Part(
    "Budgets",
    f"""What a row may keep in a layer: the keys `max_checkpoints` or `max_bytes`, `evict` and `checkpoint_dtype`. `max_bytes` is
    converted to places, floor(max_bytes / bytes of a place), when the layer is built. A budget excludes logarithmic segments;
    dtypes work with all.

    {MEASURED} A place also has counters of 8 bytes each: its last segment, its number of segments, the writes of each sub-block
    (with routing keys), and with "use" the sum of its gates and the number of tokens that saw it.""",
    (
        Choice(
            'evict="age"',
            {"max_checkpoints": 8, "evict": "age"},
            "If the budget is exceeded, the oldest checkpoint is removed.",
            "texts in which recent segments matter",
            "keep the last X segments separate, at a fixed cost and size.",
            "keep an older segment, even if every token reads it.",
            "X * (P + U) floats and 24 bytes per place.",
            "nothing; a dense cache reads X.",
            "by definition; [decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            'evict="use"',
            {"max_checkpoints": 8, "evict": "use"},
            "The checkpoint with the smallest mean gate is removed, never the newest.",
            "texts in which a few segments are read again and again",
            "keep a segment as long as tokens read it.",
            'keep what has not been read yet. It requires gates (`gated`, `soup`, `sparse`) and `routing="own"`.',
            "X * (P + U) floats and 40 bytes per place.",
            "H additions per checkpoint.",
            "no paper; [decision 13](decisions/0013-budgets-and-rounding.md).",
            "r_n = mean over heads, and over tokens since n was sealed, of g_n (0 if sparse did not select it)\n"
            "removed: argmin r_n; ties: the oldest",
            note="The gates have random weights and carry no meaning.",
        ),
        Choice(
            'evict="merge"',
            {"max_checkpoints": 8, "evict": "merge"},
            "Nothing is removed: the two neighbours that cover the fewest segments are merged.",
            "texts of which every part must leave a trace, in a bank of fixed size",
            "keep part of every segment.",
            "keep recent text in more detail than old text: spans become about equally long, recent ones too. What merging does "
            "to states: see [merged checkpoints](family/merged.md).",
            "X * (P + U) floats and 24 bytes per place.",
            "2 * P / C additions; carry: nothing.",
            "no paper (an exponential histogram, Datar et al. 2002, would keep new spans short); [decision "
            "13](decisions/0013-budgets-and-rounding.md).",
            "i = argmin span_i + span_{i+1}; ties: the oldest\n"
            "restart: S <- W_0 + (S_i - W_0) + (S_{i+1} - W_0)        carry: S <- S_{i+1}",
            ({"start": "carry"},),
        ),
        Choice(
            "float32",
            {"checkpoint_dtype": "float32"},
            "Checkpoints in the state's dtype; in a float64 model, float64.",
            "training with gradients through checkpoints of earlier calls; the default",
            "pass gradients to later calls.",
            "be small.",
            "4 * P bytes per checkpoint, and 4 * U for its routing key.",
            "nothing.",
            "by definition.",
        ),
        Choice(
            "bfloat16",
            {"checkpoint_dtype": "bfloat16"},
            "Checkpoints rounded to 8 significant bits.",
            "half the bytes, for any rule",
            "represent the whole range of float32.",
            "pass gradients to later calls, or merge without rounding again.",
            "2 * P bytes per checkpoint, and 4 * U for its routing key.",
            "one conversion per number read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            "int8",
            {"checkpoint_dtype": "int8"},
            "Checkpoints as integers from -127 to 127, with one scale per row of a matrix.",
            "the smallest bank; no loss was measured on the model that ships ([benchmarks](benchmarks.md))",
            "keep every number to within 1/254 of the largest in its row.",
            "keep small numbers in a row with a large one; pass gradients to later calls; merge without rounding again.",
            "P bytes, 4 per row of its matrices (H * K rows of V numbers), 4 per normaliser entry, and 4 * U for its routing "
            "key.",
            "one multiplication per number read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
            "s = max|w| / 127 over a row,   code = round(w / s),   |w - s code| <= s / 2\n"
            "columns that divide the others (mlstm, linear with normalise) have their own scales",
        ),
    ),
    f"{DRAWN} There are {PLACES} places and segments of {SHOWN}.",
)
