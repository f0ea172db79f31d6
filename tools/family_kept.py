"""Words of docs/family.md on what is kept: where segments end, what is removed when a budget is full, in how many bits."""

from __future__ import annotations

from family_choices import HEADS, SEALED, SEGMENT, Choice, Part, merging
from family_spans import LONGEST, PLACES
from family_spans import SEGMENT as SHOWN

MERGING = ", ".join(f"`{rule}`" for rule in merging())
MEASURED = f"""The last two columns are counts: live checkpoints, and the bytes of all that a row keeps of them in a layer, after
{SEALED} segments of {SEGMENT} tokens, with H = {HEADS}, K = V = 32, U = 64, a `gated` memory and cache where nothing else is
said."""

DRAWN = """The pictures are those of layers with random weights (`memory` linear) that read a random stream. Along: what has been
read; down: what was written. A block is one checkpoint, as wide as it was kept and as tall as what it holds, which was found by
gradients: those of a checkpoint with respect to the tokens are zero at all that it does not hold."""

SEGMENTS = Part(
    "Segments",
    f"""Where a segment ends, and which checkpoints of the past remain: the keys `segments` and `start`. With `start="restart"` a
    segment begins from the rule's first state, with `start="carry"` from the state before it, so that every checkpoint is the
    running memory at the time of its sealing.

    {MEASURED} With `content` it was cut after every {SEGMENT // 2}th token, which makes twice as many segments. n is the number
    of sealed segments.""",
    (
        Choice(
            'segments="constant"',
            {},
            "A segment ends after C writes; every checkpoint is kept.",
            "texts of a known length, and the cache `sparse`",
            "read any segment of the past, each by itself.",
            "stay small: bank and dense reads grow with the text, except under a budget.",
            'n * (P + U) floats (`router="mean"`).',
            "nothing to keep them; a dense cache reads n.",
            "arXiv 2602.24281, as of the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="logarithmic"',
            {"segments": "logarithmic"},
            "Checkpoints span 1, 2, 4 ... segments: one for each binary digit of n that is 1, the longest the oldest.",
            "texts without an end; the presets",
            'keep something of the whole text in few checkpoints; with `start="restart"` all writes, a span in one state; with '
            '`start="carry"` states that thin out with age.',
            "tell segments of one span apart; have a budget.",
            f"l = floor(log2 n) + 1 places, some of them empty, of P + U floats; restart: and l + 1 times the log decays of "
            f"{MERGING} in float32 (H floats; a channel each, H * K; vectors, H * V), or a running state a place (the others, "
            f"and checkpoints in fewer bits).",
            f"a dense cache reads l; restart: less than P / C for merging ({MERGING} in float32), or l more writes (in whole "
            "calls `delta` and `gated_delta` do them by a product a chunk); carry: nothing.",
            "arXiv 2602.24281, section 3.4; arXiv 2506.04761 (Fenwick tree of states).",
            "37 = 32 + 4 + 1: after 37 segments, spans of segments 1 to 32, 33 to 36, and 37\n"
            "restart: S <- e^{f'} S + S', f' the log decay of the newer one, or the state begun with the older one\n"
            "carry: S <- S', the newer one",
            ({"memory": "gated_delta"}, {"start": "carry"}),
        ),
        Choice(
            'start="restart"',
            {"start": "restart"},
            "A segment begins from the rule's first state.",
            "segments that are found and weighted each by itself; the default",
            "keep segments apart: a checkpoint holds the writes of its own segment, or span, and no others.",
            "replace what an earlier segment sealed: its checkpoint still answers with the old value, and a gate belongs to "
            "a segment, not to a key.",
            "none of its own.",
            "nothing; segments of one call are written side by side.",
            "as of the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'start="carry"',
            {"start": "carry"},
            "A segment begins from the state in which the one before it ended: checkpoints are what the memory once was.",
            "facts that change from segment to segment (`delta`, `gated_delta`)",
            "replace and forget across segments; thin checkpoints out with age, or merge them, without any work.",
            "keep segments apart: a checkpoint holds all before it, as far as the rule has not forgotten it.",
            "none of its own.",
            "nothing; segments of one call are written one after the other.",
            "as of the [caching policies](family.md#caching-policies).",
        ),
        Choice(
            'segments="content"',
            {"segments": "content"},
            "A segment ends with the write of a token that is cut at, and after C writes at the latest.",
            "texts of lines, speakers or documents that are to be found as such",
            "make one checkpoint of one line, however long the others are.",
            "hold more than C writes in one segment, or find where a text's parts end: the caller cuts (`cut`, or `cut_at`).",
            "as with `constant`, and 8 bytes a cut (once a row, not a layer).",
            "as with `constant`; a call computes pieces as wide as its longest segment.",
            "no paper; [decision 10](decisions/0010-cuts-and-anchors.md).",
            "write m ends a segment if its tokens were cut at, or if it is write C of it",
            note=f"Cut unevenly, and once not for more than {LONGEST} tokens: there a segment ends because it is full.",
        ),
    ),
    DRAWN,
)


BUDGETS = Part(
    "Budgets",
    f"""What a row may keep in a layer: the keys `max_checkpoints` or `max_bytes`, `evict` and `checkpoint_dtype`. `max_bytes` is
    turned into places, floor(max_bytes / bytes of a place), when the layer is built. Neither goes with
    logarithmic segments; dtypes go with all.

    {MEASURED} A place has counters
    of 8 bytes besides: its last segment, how many it holds, the writes of each sub-block (with routing keys), and with "use" its
    gates and the tokens that saw it.""",
    (
        Choice(
            'evict="age"',
            {"max_checkpoints": 8, "evict": "age"},
            "Over the budget, the oldest checkpoint is removed.",
            "texts in which recent segments matter",
            "keep the last X segments, each by itself, at a fixed cost and size.",
            "keep anything longer, even if every token reads it.",
            "X * (P + U) floats and 24 bytes a place.",
            "nothing; a dense cache reads X.",
            "by definition; [decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            'evict="use"',
            {"max_checkpoints": 8, "evict": "use"},
            "The checkpoint that was read least is removed: by the mean of its gates, never the newest.",
            "texts in which a few segments are read again and again",
            "keep a segment for as long as tokens read it.",
            'keep what has not been read yet. It needs gates (`gated`, `soup`, `sparse`) and `routing="own"`.',
            "X * (P + U) floats and 40 bytes a place.",
            "H additions a checkpoint.",
            "no paper; [decision 13](decisions/0013-budgets-and-rounding.md).",
            "r_n = mean over heads, and over tokens since n was sealed, of g_n (0 where sparse did not pick it)\n"
            "removed: argmin r_n, of equals the oldest",
            note="The gates are those of random weights and carry no meaning.",
        ),
        Choice(
            'evict="merge"',
            {"max_checkpoints": 8, "evict": "merge"},
            "Nothing is removed: the two neighbours that hold the fewest segments become one.",
            "texts of which something of everything is kept, in a bank of fixed size",
            "keep something of every segment.",
            "keep what is near finer than what is far: spans become about equally long, the last ones too. What it does to "
            "states: see [merged checkpoints](family/merged.md).",
            "X * (P + U) floats and 24 bytes a place.",
            "2 * P / C additions; carry: nothing.",
            "no paper (an exponential histogram, Datar et al. 2002, would keep new spans short); [decision "
            "13](decisions/0013-budgets-and-rounding.md).",
            "i = argmin span_i + span_{i+1}, of equals the oldest\n"
            "restart: S <- W_0 + (S_i - W_0) + (S_{i+1} - W_0)        carry: S <- S_{i+1}",
            ({"start": "carry"},),
        ),
        Choice(
            "float32",
            {"checkpoint_dtype": "float32"},
            "Checkpoints as the state is; in a model of float64, float64.",
            "training with gradients through checkpoints of earlier calls; the default",
            "pass gradients on to later calls.",
            "be small.",
            "4 * P bytes a checkpoint, and 4 * U for its routing key.",
            "nothing.",
            "by definition.",
        ),
        Choice(
            "bfloat16",
            {"checkpoint_dtype": "bfloat16"},
            "Checkpoints rounded to 8 significant bits.",
            "half the bytes, whatever the rule",
            "keep any size of number that float32 has.",
            "pass gradients on to later calls, or merge without rounding again.",
            "2 * P bytes a checkpoint, and 4 * U for its routing key.",
            "a conversion of each number that is read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
        ),
        Choice(
            "int8",
            {"checkpoint_dtype": "int8"},
            "Checkpoints as whole numbers from -127 to 127, with a scale for each row of a matrix.",
            "the smallest bank; no loss was measured on the model that ships ([benchmarks](benchmarks.md))",
            "keep every number to 1/254 of the largest of its row.",
            "keep small numbers of a row beside a large one; pass gradients on to later calls; merge without rounding again.",
            "P bytes, 4 a row of its matrices (H * K rows of V numbers) and 4 a number that divides, and 4 * U for its routing "
            "key.",
            "a multiplication of each number that is read.",
            "[decision 13](decisions/0013-budgets-and-rounding.md).",
            "s = max|w| / 127 over a row,   code = round(w / s),   |w - s code| <= s / 2\n"
            "columns that divide the others (mlstm, linear with normalise) have scales of their own",
        ),
    ),
    f"{DRAWN} There are {PLACES} places and segments of {SHOWN}.",
)
