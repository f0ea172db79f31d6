"""No rule works token by token: what a longer call adds to the number of torch operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import siltstone as st
from siltstone.config import registry

RECURRENT = ("gru", "lstm", "slstm")  # what they add to a state depends on it: torch's own loop, or one over writes


class Operations(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(layer: st.MemoryCaching, tokens: int, backward: bool) -> int:
    x = torch.randn(1, tokens, 16)
    with torch.set_grad_enabled(backward), Operations() as counted:
        y, _ = layer(x)
        if backward:
            y.sum().backward()
    return counted.count


@pytest.mark.parametrize("cache", ["none", "gated"])
@pytest.mark.parametrize("memory,options", registry.settings("memory"))
def test_operations_a_token(memory: str, options: dict[str, Any], cache: str) -> None:
    """Less than 2 forward, less than 5 with the backward pass: not one whole operation of a loop for each token."""
    keys: dict[str, Any] = dict(memory=memory, memory_options=options, cache=cache, segment=256)
    if memory in RECURRENT:
        keys |= dict(compress="mean", rate=16)
    elif hasattr(registry.options(registry.member("memory", memory), options), "inner_batch"):
        keys["memory_options"] = options | dict(inner_batch=64)
    layer = st.MemoryCaching(16, heads=2, window=16, **keys)
    for backward, most in ((False, 2), (True, 5)):
        assert operations(layer, 1024, backward) - operations(layer, 512, backward) < most * 512


def test_a_loop_over_tokens_would_be_seen() -> None:
    layer = st.MemoryCaching(16, heads=2, window=16, memory="slots", memory_options=dict(inner_batch=1), cache="none")
    assert operations(layer, 256, False) - operations(layer, 128, False) > 10 * 128
