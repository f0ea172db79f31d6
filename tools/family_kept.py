"""Texts of docs/family.md on what is kept: where segments end, what a full budget removes, and in which dtype."""

from __future__ import annotations

from family_choices import HEADS, SEALED, SEGMENT, Choice, Part, merging
from family_spans import LONGEST, PLACES
from family_spans import SEGMENT as SHOWN

MERGING = ", ".join(f"`{rule}`" for rule in merging())
MEASURED = f"""The last two columns are counts: the number of live checkpoints, and the bytes of all data that one row keeps for
them in one layer, after {SEALED} segments of {SEGMENT} tokens. H = {HEADS}, K = V = 32, U = 64; memory and cache are `gated`
unless the row says otherwise."""

DRAWN = """The picture shows a layer with random weights (`memory` linear) that reads a random stream. The horizontal axis is
the number of tokens or segments read, the vertical axis what was written. Each block is one checkpoint. Its width is the time
for which it was kept, its height the tokens that it holds. These tokens were found by gradients: the gradient of a checkpoint
with respect to a token is zero if the checkpoint does not hold the token."""

SEGMENTS = Part(
    "Segments",
    f"""The keys `segments` and `start` decide where a segment ends and which checkpoints are kept. With `start="restart"` a
    segment begins from the rule's initial state. With `start="carry"` it begins from the last state of the segment before it, so
    each checkpoint is a copy of the online memory.

    {MEASURED} With `content` the stream was cut after every {SEGMENT // 2}th token, which makes twice as many segments. n is the
    number of sealed segments.""",
    (
        Choice(
            'segments="constant"',
            {},
            "A segment ends after C writes; every checkpoint is kept.",
            "texts of a known length, and the cache `sparse`",
            "read any earlier segment, each with its own weight.",
            "stay small: the bank and the cost of dense reads grow with the text, unless there is a budget.",
            'n * (P + U) floats (`router="mean"`).',
            "nothing for keeping them; a dense cache reads n.",
            "arXiv 2602.24281, as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="logarithmic"',
            {"segments": "logarithmic"},
            "Checkpoints span 1, 2, 4 ... segments: one for each binary digit of n that is 1, the longest the oldest.",
            "texts of unlimited length; the default of the presets",
            'keep something of the whole text in few checkpoints: with `start="restart"` all writes, one state a span; with '
            '`start="carry"` states that are further apart the older they are.',
            "distinguish the segments of one span; be combined with a budget.",
            f"l = floor(log2 n) + 1 places of P + U floats, some of them empty. With restart also l + 1 times the log decays for "
            f"{MERGING} in float32 (H floats; H * K with a decay a channel; H * V for vectors), or a span state for each "
            f"place (other rules, and rounded checkpoints).",
            f"a dense cache reads l. Restart: less than P / C for merging ({MERGING} in float32), or l more writes (calls with "
            "many tokens compute them for `delta` and `gated_delta` with one product a chunk). Carry: nothing.",
            "arXiv 2602.24281, section 3.4; arXiv 2506.04761 (Fenwick tree of states).",
            "37 = 32 + 4 + 1: after 37 segments, spans of segments 1 to 32, 33 to 36, and 37\n"
            "restart: S <- e^{f'} S + S', f' the log decay of the newer span, or the span state of the older span\n"
            "carry: S <- S', the newer one",
            ({"memory": "gated_delta"}, {"start": "carry"}),
        ),
        Choice(
            'start="restart"',
            {"start": "restart"},
            "A segment begins from the rule's initial state.",
            "segments that are found and weighted independently; the default",
            "keep segments separate: a checkpoint holds only the writes of its own segment or span.",
            "replace a value in an earlier checkpoint: that checkpoint still returns the old value, and a gate weights a whole "
            "segment, not a key.",
            "none.",
            "nothing; segments of one call are written in parallel.",
            "as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'start="carry"',
            {"start": "carry"},
            "A segment begins from the last state of the segment before it: checkpoints are earlier states of one memory.",
            "facts that change from segment to segment (`delta`, `gated_delta`)",
            "replace and forget across segments; remove or merge old checkpoints without computation.",
            "keep segments separate: a checkpoint holds everything before it that the rule has not forgotten.",
            "none.",
            "nothing; segments of one call are written in sequence.",
            "as for the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="content"',
            {"segments": "content"},
            "A segment ends with the write of a token that is cut at, and after C writes at the latest.",
            "texts of lines, speakers or documents, with one checkpoint for each",
            "make one checkpoint for each line, for lines of different lengths.",
            "hold more than C writes in one segment, or find boundaries by itself: the caller sets them (`cut` or `cut_at`).",
            "as with `constant`, and 8 bytes a cut (once a row, for all layers).",
            "as with `constant`; segment chunks of a call are padded to its longest segment.",
            "no paper; [decision 10](decisions/0010-cuts-and-anchors.md).",
            "write m ends a segment if one of its tokens is cut at, or if it is write C of the segment",
            note=f"The cuts are uneven. One stretch has no cut for more than {LONGEST} tokens; there a full segment ends.",
        ),
    ),
    DRAWN,
)


BUDGETS = Part(
    "Budgets",
    f"""The keys `max_checkpoints` or `max_bytes`, `evict` and `checkpoint_dtype` decide how many checkpoints a row keeps in a
    layer, and in which format. When the layer is built, `max_bytes` is converted to a number of places, floor(max_bytes / bytes
    of a place). Logarithmic segments exclude a budget; `checkpoint_dtype` can be combined with all kinds of segments.

    {MEASURED} Each place also has counters of 8 bytes: its last segment, its number of segments, the writes of each sub-block
    (with routing keys), and with "use" the sum of its gates and the number of tokens that could read it.""",
    (
        Choice(
            'evict="age"',
            {"max_checkpoints": 8, "evict": "age"},
            "When the budget is exceeded, the oldest checkpoint is removed.",
            "texts in which recent segments matter",
            "keep the last X segments separately, at a fixed cost and size.",
            "keep an older segment, even if every token reads it.",
            "X * (P + U) floats and 24 bytes a place.",
            "nothing; a dense cache reads X.",
            "by definition; [decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            'evict="use"',
            {"max_checkpoints": 8, "evict": "use"},
            "The checkpoint with the smallest mean gate is removed, but never the newest checkpoint.",
            "texts in which the same few segments are read repeatedly",
            "keep a segment for as long as tokens read it.",
            'keep a segment that no token has read yet. It requires gates (`gated`, `soup`, `sparse`) and `routing="own"`.',
            "X * (P + U) floats and 40 bytes a place.",
            "H additions a checkpoint.",
            "no paper; [decision 13](decisions/0013-budgets-and-rounding.md).",
            "r_n = mean of g_n over heads and over tokens since n was sealed (0 where sparse did not select it)\n"
            "removed: argmin r_n, the oldest among equals",
            note="The gates are those of random weights and have no meaning.",
        ),
        Choice(
            'evict="merge"',
            {"max_checkpoints": 8, "evict": "merge"},
            "No checkpoint is removed: the two neighbours that hold the fewest segments are merged.",
            "texts of which every part is kept to some degree, in a bank of fixed size",
            "keep something of every segment.",
            "keep recent segments at a finer resolution than old ones: all spans become about equally long. See [merged "
            "checkpoints](family/merged.md) for what merging does to states.",
            "X * (P + U) floats and 24 bytes a place.",
            "2 * P / C additions; carry: nothing.",
            "no paper (an exponential histogram, Datar et al. 2002, would keep new spans short); [decision "
            "13](decisions/0013-budgets-and-rounding.md).",
            "i = argmin span_i + span_{i+1}, the oldest among equals\n"
            "restart: S <- W_0 + (S_i - W_0) + (S_{i+1} - W_0)        carry: S <- S_{i+1}",
            ({"start": "carry"},),
        ),
        Choice(
            "float32",
            {"checkpoint_dtype": "float32"},
            "Checkpoints are kept in the dtype of the state: float32, or float64 in a model of float64.",
            "training with gradients through checkpoints of earlier calls; the default",
            "pass gradients to later calls.",
            "save memory.",
            "4 * P bytes a checkpoint, and 4 * U for its routing key.",
            "nothing.",
            "by definition.",
        ),
        Choice(
            "bfloat16",
            {"checkpoint_dtype": "bfloat16"},
            "Checkpoints rounded to 8 significant bits.",
            "half the bytes, for any rule",
            "represent the same range of numbers as float32.",
            "pass gradients to later calls, or merge without rounding again.",
            "2 * P bytes a checkpoint, and 4 * U for its routing key.",
            "a conversion of each number that is read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            "int8",
            {"checkpoint_dtype": "int8"},
            "Checkpoints are kept as integers from -127 to 127, with a scale for each row of a matrix.",
            "the smallest bank; no loss was measured on the model that ships ([benchmarks](benchmarks.md))",
            "keep every number with an error of at most 1/254 of the largest number of its row.",
            "keep small numbers precise in a row with a large one; pass gradients to later calls; merge without rounding again.",
            "P bytes, 4 a row of its matrices (H * K rows of V numbers), 4 a number that divides a read, and 4 * U for its "
            "routing key.",
            "a multiplication of each number that is read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
            "s = max|w| / 127 over a row,   code = round(w / s),   |w - s code| <= s / 2\n"
            "columns that divide the others (mlstm, linear with normalise) have their own scales",
        ),
    ),
    f"{DRAWN} The bank has {PLACES} places, and segments have {SHOWN} tokens.",
)
