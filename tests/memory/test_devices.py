"""Rules are made on the default device, also where another library keeps `torch.linspace` on the CPU, as transformers does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.config import registry

from ..contract.grid import options


@pytest.mark.parametrize("memory", registry.members("memory"))
def test_weights_are_on_the_default_device(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.linspace

    def on_the_cpu(*args: Any, **keys: Any) -> torch.Tensor:
        return real(*args, **keys | {"device": "cpu"})

    monkeypatch.setattr(torch, "linspace", on_the_cpu)
    for variant in (0, 1):
        keys = dict(heads=2, window=4, segment=8, memory=memory, memory_options=options(memory, variant))
        with torch.device("meta"):
            made = st.MemoryCaching(16, cache="none", **keys)  # type: ignore[arg-type]
        assert {p.device.type for p in made.parameters()} == {"meta"}
