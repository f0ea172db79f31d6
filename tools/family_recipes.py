"""What to set for what: the recipes of docs/recipes.md, each a line of Python that builds a model.

The page prints them, and tests/house/test_recipes.py builds and runs what it prints. `state` is measured there too: bytes of one
row's state after TOKENS tokens, beside those of the preset as it is.
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
    """need -> keys over those of the preset.

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
    """The share of right answers of an arm of docs/recall.json, a mean over its seeds."""
    rows = json.loads((Path(__file__).resolve().parent.parent / "docs/recall.json").read_text("utf-8"))
    return f"{statistics.mean(row['right'] for row in rows if row['arm'] == arm):.2f}"


HEAD = """A line for each need: it builds a model (after `import siltstone as st`), and is run by the tests. The keys after the
vocabulary's size mean the same in `--set key=value`, in a configuration file and in `MemoryCaching(...)` (but for `pattern` and
`cut_at`, which are a model's); values of `--set` are JSON, as in `--set 'cut_at="\\n"'`. Any other preset will do, if it has
at least as many blocks as `pattern` has letters. Bytes are those of float32, without the tokens' text."""

RECIPES = (
    Recipe(
        "Very long streams, with O(log t) checkpoints (the presets as they are)",
        {"memory": "gated", "cache": "gated", "segments": "logarithmic"},
        906_640,
        "a million tokens through every rule, finite and bounded ([long runs](soak.md)); 250,000 in `make demo`. With `gated`, "
        "`linear`, `min_gru` and `min_lstm` spans merge by their decays; other rules keep a running state beside each checkpoint",
        "what thinning out the past costs in prediction, against keeping every checkpoint",
    ),
    Recipe(
        "Recall of many pairs, and of facts that change, in a state that grows with log t",
        {"memory": "gated_delta", "heads": 4, "head_dim": 64, "short_conv": 4, "start": "carry"},
        2_011_648,
        "of the rules with a matrix a head, `delta` and `gated_delta` recall most in the [toy](family.md#update-rules); the "
        "model that ships has `gated_delta`",
        "how many pairs of a text a trained model recalls. A head holds about K = head_dim pairs apart, so head_dim sets it. "
        "`short_conv` lets a value meet its key in the token before: without it small models learn no pairs ([decision "
        "17](decisions/0017-how-layers-begin.md)). `start` carries on, so that a new value replaces one of an earlier segment",
    ),
    Recipe(
        "Exact recall of many pairs, however far back",
        {"memory": "gated_delta", "pattern": "mmma"},
        3_485_440,
        "that full attention, here in every fourth block, sees every token exactly (tests)",
        "how many such blocks a text needs. Their keys and values grow with the text, and so does a session",
    ),
    Recipe(
        "The right segment among many: checkpoints found by their best sub-block",
        {"segments": "constant", "router": "subblock:8", "short_conv": 4},
        2_072_064,
        "small models trained to recall 64 pairs ([recall](recall.md); sub-blocks of 4, segments of 16, no window): where "
        "checkpoints are found by a mean of their keys, "
        f"{right('gated, mean')} of the answers are right, by sub-blocks {right('gated, subblock:4')}. A hard choice, `sparse`, "
        f"was learnt by no seed with the mean, and by one of two with sub-blocks ({right('sparse top-2, subblock:4')} over both)",
        "what it does for a text. The bank grows by a checkpoint a segment; a budget (`max_checkpoints`) bounds it",
    ),
    Recipe(
        "State tracking: parity, swaps, who holds what",
        {"memory": "gated_delta", "memory_options": {"negative": True}},
        1_233_920,
        "in the [toy](family.md#update-rules) it follows parity without an error, twice as far as it was trained, where "
        "without `negative` it guesses, and recalls as much, at the same speed. `gru`, `lstm` and `slstm` follow it "
        "too, one write after the other",
        "states of more than two values (for swaps of more things see arXiv 2411.12537), and states of a text",
    ),
    Recipe(
        "The smallest session",
        {"memory": "min_gru", "cache": "none", "window": 16, "kv_heads": 1},
        59_904,
        "its bytes; in the [toy](family.md#update-rules) rules with a vector a head recall next to nothing by a key",
        "what such a model loses in bits per byte",
    ),
    Recipe(
        "Documents of lines: a segment, and a checkpoint, for each line",
        {"segments": "content", "cut_at": "\n", "segment": 512, "cache": "sparse", "top_k": 4, "max_checkpoints": 64},
        4_560_784,
        "its bytes, with lines of 40 tokens (without `max_checkpoints` they would grow by a checkpoint a line); that "
        "any split of a text into calls gives the same outputs (tests)",
        "whether segments by content predict better than equal ones",
    ),
    Recipe(
        "A budget of memory",
        {"segments": "constant", "max_checkpoints": 16, "evict": "age", "checkpoint_dtype": "int8"},
        936_864,
        "checkpoints in int8: 3.5 times fewer bytes, and no difference in bits per byte that could be measured, on the "
        "model that ships ([benchmarks](benchmarks.md))",
        'which of `evict` = "age", "use" and "merge" predicts best',
    ),
    Recipe(
        "Surprising tokens kept exactly",
        {"memory": "gated_delta", "cache": "exact", "cache_options": {"writes": 64}},
        904_192,
        "in the [toy of caches](family/cache-exact.md), with 8 kept writes, answers come from the segments in which they were "
        "told; with `none` they do not",
        "how often a text needs it. There are no checkpoints: the memory is one endless segment",
    ),
    Recipe(
        "Cheap decoding",
        {"cache": "sparse", "top_k": 2, "kv_heads": 1, "compress": "mean", "rate": 4},
        655_248,
        "that a token costs about the same far on: with `sparse`, 0.81 to 0.87 of the speed at 1,024 tokens is left at 131,072 "
        "([benchmarks](benchmarks.md))",
        "what kv_heads and rate save in time, and cost in prediction",
    ),
    Recipe(
        "Training on long rows: `siltstone train texts/ --length 8192 --recompute segment`",
        {"memory": "gated_delta", "segment": 256},
        1_069_056,
        "that gradients are those of one call (tests); the activations of one segment are kept, for one more forward pass",
        "whether long rows make better memories than the default, 512 tokens a step with states carried on",
    ),
)
