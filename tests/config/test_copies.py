"""Configurations are values: copied, pickled and resized they stay what they are."""

from __future__ import annotations

import copy
import pickle

import pytest

import siltstone as st
from siltstone.errors import ConfigError

CFG = st.presets.nano(64, memory="slots", memory_options={"number": 3}, layers={"-1": {"memory": "delta", "window": 4}})


@pytest.mark.parametrize(
    "twin", [copy.copy(CFG), copy.deepcopy(CFG), pickle.loads(pickle.dumps(CFG))], ids=["copy", "deep", "pickle"]
)
def test_copies(twin: st.LMConfig) -> None:
    assert twin == CFG and hash(twin) == hash(CFG) and twin.to_dict() == CFG.to_dict()
    assert twin.layer.members == CFG.layer.members and twin.layer_configs == CFG.layer_configs
    assert twin.fingerprint == CFG.fingerprint


def test_sized() -> None:
    assert CFG.sized(100) == CFG.replace(vocab_size=100) and CFG.vocab_size == 64
    assert CFG.sized(100).layer is CFG.layer and CFG.sized(100).layer_configs == CFG.layer_configs
    with pytest.raises(ConfigError, match="vocab_size=0 must be a whole number"):
        CFG.sized(0)
