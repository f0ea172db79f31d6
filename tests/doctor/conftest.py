"""Small models and texts to examine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st

SMALL: dict[str, Any] = {
    "depth": 2,
    "d_model": 16,
    "heads": 2,
    "window": 4,
    "segment": 8,
    "router_dim": 8,
    "segments": "constant",
}
IDS = torch.randint(0, 256, (400,), generator=torch.Generator().manual_seed(5))


def make(**keys: Any) -> st.LM:
    """A model whose memories say something: weights as after a little training."""
    torch.manual_seed(0)
    model = st.LM(st.presets.nano(259, **({"segments": "constant"} | SMALL | keys))).eval()
    with torch.no_grad():
        model.embed.weight.mul_(20)
        for name, p in model.named_parameters():
            if name.endswith("mix.norm"):
                p.fill_(1.0)
            elif name.endswith("out.weight"):
                p.mul_(20)
    return model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A healthy model's folder."""
    return st.save(make(), st.ByteTokenizer(), tmp_path / "run")
