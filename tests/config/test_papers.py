"""Names of papers: the error says what to write here, and what it says is valid."""

from __future__ import annotations

import re

import pytest

import siltstone as st
from siltstone.config import papers, registry
from siltstone.errors import ConfigError

CASES = [(family, name) for family, names in papers.NAMES.items() for name in names]


@pytest.mark.parametrize("family, name", CASES)
def test_advice_names_members_that_exist(family: str, name: str) -> None:
    said = papers.NAMES[family][name][0]
    for other, value in re.findall(r"(cache|memory|segments|compress)='(\w+)'", said):
        assert value in registry.members(other)
    assert name not in registry.members(family)
    with pytest.raises(ConfigError, match=re.escape(said)):
        st.LMConfig.from_dict({"vocab_size": 64, "d_model": 32, "heads": 2, family: name})


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"cache": "GRM"}, r"cache='GRM' is not a name here; write cache='gated' \(gated residual memory"),
        ({"cache": "Gated"}, "write cache='gated': names are lower case"),
        ({"memory": "Gated-DeltaNet"}, "write memory='gated_delta'"),
        ({"cache": "Sparse Selective Caching"}, "write cache='sparse'"),
    ],
)
def test_as_people_type_them(keys: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        st.presets.tiny(64, **keys)
