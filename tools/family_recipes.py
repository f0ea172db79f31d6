"""The recipes of docs/recipes.md: for each need, a line of Python that builds a model.

The page prints them, and tests/house/test_recipes.py builds and runs what it prints. `state` is measured there too: bytes of one
row's state after TOKENS tokens; the first recipe is the preset without changes.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENS = 2000
PRESET, VOCAB = "tiny", 8192


@dataclass(frozen=True)
class Recipe:
    """need -> keys that change the preset.

    state      bytes of a row's state after TOKENS tokens
    measured   what has been measured here, and where; unmeasured: what has not
    """

    need: str
    keys: dict[str, Any]
    state: int
    measured: str
    unmeasured: str

    @property
    def line(self) -> str:
        """Python that builds the model."""
        keys = "".join(f", {key}={quoted(value)}" for key, value in self.keys.items())
        return f"model = st.LM(st.presets.{PRESET}({VOCAB}{keys}))"


def quoted(value: Any) -> str:
    """As Python writes it, with double quotes."""
    return json.dumps(value) if isinstance(value, str) else str(value).replace("'", '"')


def right(arm: str) -> str:
    """The share of right answers of an arm of docs/recall.json, averaged over its seeds."""
    rows = json.loads((Path(__file__).resolve().parent.parent / "docs/recall.json").read_text("utf-8"))
    return f"{statistics.mean(row['right'] for row in rows if row['arm'] == arm):.2f}"


HEAD = """Each recipe is one line that builds a model (after `import siltstone as st`). The tests run it. The keys after the
vocabulary size have the same meaning in `--set key=value`, in a configuration file and in `MemoryCaching(...)`; exceptions are
`pattern` and `cut_at`, which are keys of a model only. Values of `--set` are JSON, for example `--set 'cut_at="\\n"'`. Another
preset works too, if it has at least as many blocks as `pattern` has letters. Bytes are for float32 and do not include the text of
the tokens."""

RECIPES = (
    Recipe(
        "Very long streams, with O(log t) checkpoints (the default of the presets)",
        {"memory": "gated", "cache": "gated", "segments": "logarithmic"},
        906_640,
        "every rule read a million tokens; states stayed finite, and bounded except those of `linear` ([long runs](soak.md)). "
        "`make demo` reads 250,000. With `gated`, `linear`, `min_gru` and `min_lstm` spans merge by their decays; other rules "
        "keep a span state for each checkpoint",
        "the loss in prediction, compared with keeping every checkpoint",
    ),
    Recipe(
        "Recall of many pairs, and of facts that change, in a state that grows with log t",
        {"memory": "gated_delta", "heads": 4, "head_dim": 64, "short_conv": 4, "start": "carry"},
        2_011_648,
        "of the rules with a matrix a head, `delta` and `gated_delta` recall most in the [toy task](family.md#update-rules); the "
        "model that ships has `gated_delta`",
        "how many pairs of a text a trained model recalls. A head can separate about K = head_dim pairs, so head_dim sets the "
        "limit. `short_conv` joins a value to its key in the token before; without it small models learn no pairs ([decision "
        "17](decisions/0017-how-layers-begin.md)). With `start=carry` a new value replaces one of an earlier segment",
    ),
    Recipe(
        "Exact recall of many pairs at any distance",
        {"memory": "gated_delta", "pattern": "mmma"},
        3_485_440,
        "that full attention, here in every fourth block, sees every token exactly (tests)",
        "how many of these blocks a text needs. Their keys and values, and therefore the session, grow with the text",
    ),
    Recipe(
        "Finding the right segment among many: scores by the best sub-block",
        {"segments": "constant", "router": "subblock:8", "short_conv": 4},
        2_072_064,
        "small models trained to recall 64 pairs ([recall](recall.md); sub-blocks of 4, segments of 16, no window): with scores "
        f"by the mean of the keys {right('gated, mean')} of the answers are right, with scores by sub-blocks "
        f"{right('gated, subblock:4')}. With `cache=sparse`, no seed learned the task with the mean, and one of two learned it "
        f"with sub-blocks (mean over both seeds: {right('sparse top-2, subblock:4')})",
        "the effect on text. The bank grows by one checkpoint a segment; a budget (`max_checkpoints`) limits it",
    ),
    Recipe(
        "State tracking: parity, swaps, who holds what",
        {"memory": "gated_delta", "memory_options": {"negative": True}},
        1_233_920,
        "in the [toy task](family.md#update-rules) it tracks parity without an error, at twice the training length; without "
        "`negative` it is at chance. Recall and speed are the same. `gru`, `lstm` and `slstm` track parity too, but their writes "
        "are sequential",
        "states of more than two values (for swaps of more things see arXiv 2411.12537), and states in text",
    ),
    Recipe(
        "The smallest session",
        {"memory": "min_gru", "cache": "none", "window": 16, "kv_heads": 1},
        59_904,
        "its bytes. In the [toy task](family.md#update-rules) rules with a vector a head recall almost nothing by key",
        "the loss in bits per byte",
    ),
    Recipe(
        "Documents of lines: one segment and one checkpoint for each line",
        {"segments": "content", "cut_at": "\n", "segment": 512, "cache": "sparse", "top_k": 4, "max_checkpoints": 64},
        4_560_784,
        "its bytes, with lines of 40 tokens (without `max_checkpoints` they grow by one checkpoint a line); that "
        "any split of a text into calls gives the same outputs (tests)",
        "whether segments by content predict better than equal ones",
    ),
    Recipe(
        "A budget of memory",
        {"segments": "constant", "max_checkpoints": 16, "evict": "age", "checkpoint_dtype": "int8"},
        936_864,
        "checkpoints in int8: 3.5 times fewer bytes and no measurable difference in bits per byte on the "
        "model that ships ([benchmarks](benchmarks.md))",
        'which of `evict` = "age", "use" and "merge" predicts best',
    ),
    Recipe(
        "Surprising tokens kept exactly",
        {"memory": "gated_delta", "cache": "exact", "cache_options": {"writes": 64}},
        904_192,
        "in the [toy task of caches](family/cache-exact.md), with 8 kept writes, answers come from the segments that contain the "
        "facts; with `none` they do not",
        "how often a text needs it. There are no checkpoints: the memory is one segment that never ends",
    ),
    Recipe(
        "Cheap decoding",
        {"cache": "sparse", "top_k": 2, "kv_heads": 1, "compress": "mean", "rate": 4},
        655_248,
        "that the cost of a token depends little on the position: with `sparse`, the speed at 131,072 tokens is 0.81 to 0.87 of "
        "that at 1,024 ([benchmarks](benchmarks.md))",
        "the time that `kv_heads` and `rate` save, and the loss in prediction",
    ),
    Recipe(
        "Training on long rows: `siltstone train texts/ --length 8192 --recompute segment`",
        {"memory": "gated_delta", "segment": 256},
        1_069_056,
        "that gradients equal those of one call (tests). Only the activations of one segment are kept, at the cost of a second "
        "forward pass",
        "whether long rows train better memories than the default, 512 tokens a step with states kept between steps",
    ),
)
