"""docs/configuration.md is what the configuration's tables say, and they are what the configuration checks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.config import constraints, kinds, model, registry
from siltstone.config.layer import LayerConfig
from siltstone.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
BASE: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "heads": 2, "depth": 2, "window": 4, "segment": 8}
ROWS = (*constraints.LAYER, *model.SHAPE, *model.MODEL)
BROKEN: dict[tuple[str, ...], dict[str, Any]] = {
    ("d_model", "heads", "head_dim"): {"heads": 3},
    ("kv_heads", "heads"): {"kv_heads": 3},
    ("head_dim", "position", "window"): {"head_dim": 3},
    ("write_delay", "window"): {"window": 0},
    ("sinks", "window"): {"window": 0, "write_delay": 0, "sinks": 1},
    ("compress_every", "rate"): {"rate": 2, "compress": "mean", "compress_every": 3},
    ("write_delay", "rate", "compress_every", "window"): {"write_delay": 0, "compress_every": 8},
    ("segment", "rate", "compress_every"): {"compress_every": 3},
    ("router", "segment", "rate", "compress_every"): {"router": "subblock:3"},
    ("router", "segments", "evict"): {"router": "anchor:2", "segments": "logarithmic"},
    ("router", "cache"): {"router": "anchor:2", "cache": "blocks"},
    ("max_checkpoints", "max_bytes", "cache"): {"max_checkpoints": 2, "cache": "none"},
    ("max_checkpoints", "max_bytes"): {"max_checkpoints": 2, "max_bytes": 10**5},
    ("max_checkpoints", "max_bytes", "segments"): {"max_checkpoints": 2, "segments": "logarithmic"},
    ("evict", "cache"): {"max_checkpoints": 2, "evict": "use", "cache": "residual"},
    ("cache", "evict"): {"max_checkpoints": 2, "evict": "merge", "cache": "blocks"},
    ("evict", "routing"): {"max_checkpoints": 2, "evict": "use", "routing": "shared"},
    ("evict", "start", "memory"): {"max_checkpoints": 2, "evict": "merge", "memory": "mlstm"},
    ("depth",): {"depth": 10**5},
    ("pattern", "depth"): {"pattern": "mmm"},
    ("pattern", "window"): {"pattern": "mw", "window": 0, "write_delay": 0},
}


def test_the_page_is_up_to_date(tool) -> None:
    assert PAGE.read_text("utf-8") == tool("configuration_page").page()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.keys))
def test_every_constraint_is_told_and_held(row: constraints.Constraint) -> None:
    page = PAGE.read_text("utf-8")
    number = re.search(rf"^(\d+)\. {re.escape(row.rule)}$", page, re.M)
    assert number is not None
    for key in row.keys:
        assert re.search(rf"^\| `{key}` .*[ ,|]{number[1]}(,| \|$)", page, re.M), key
    with pytest.raises(ConfigError) as refused:
        st.LMConfig.from_dict(BASE | BROKEN[row.keys])
    said = str(refused.value)
    assert any(f"{key}=" in said for key in row.keys) or all(key in said for key in row.keys)
    assert "; " in said and "{" not in said


def test_every_key_and_option_has_a_row(tool) -> None:
    page, meanings = PAGE.read_text("utf-8"), tool("configuration_page").meanings
    for cls in (LayerConfig, st.LMConfig):
        names = {f.name for f in dataclasses.fields(cls)} - {"layer"}
        assert set(kinds.keys(cls)) == names and all(f"| `{name}` | " in page for name in names)
    for family in registry.FAMILIES:
        for name, cls in registry.members(family).items():
            for option in dataclasses.fields(cls.Options):
                assert meanings(cls.Options)[option.name] and f"| `{family}={name}` | `{option.name}` | " in page


@pytest.mark.parametrize("name", sorted(kinds.keys(LayerConfig) | kinds.keys(st.LMConfig)))
def test_every_key_refuses_what_is_not_its_kind(name: str) -> None:
    with pytest.raises(ConfigError, match=name.removesuffix("_options")):
        st.LMConfig.from_dict(BASE | {name: object()})


def test_the_sampling_options_are_told_apart() -> None:
    rows = [row for row in PAGE.read_text("utf-8").splitlines() if row.startswith(("| `top_k`", "| `temperature`"))]
    assert len(rows) == 2 and "`generate` is a different option" in rows[0] and "not the sampling temperature" in rows[1]
    assert "top_k" in (st.LayerConfig.__doc__ or "") and "not the sampling temperature" in (st.LayerConfig.__doc__ or "")


def test_options_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and its state take them from the layer's configuration."""
    cfg = st.LMConfig.from_dict(BASE | {"memory": "slots", "memory_options": {"number": 3}})
    assert cfg.layer.members.memory.options.number == 3 and cfg.layer.memory_options == {"number": 3}

    def again(*_: Any) -> None:
        raise AssertionError("options were parsed again")

    monkeypatch.setattr(registry, "options", again)
    lm = st.LM(cfg)
    lm.init_state(1)
    assert lm._layers[0].mix.memory.options is cfg.layer.members.memory.options
