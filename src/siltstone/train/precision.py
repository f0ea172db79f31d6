"""The number format and the device of training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from ..errors import ConfigError


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 multiplication. Other devices emulate it, which is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def chosen(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16", with "auto" decided for the device."""
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A function that makes the context in which the model is called."""
    if chosen(precision, device) == "fp32":
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, torch.bfloat16)


def chosen_device(name: str) -> torch.device:
    """A device by its name; "auto" is the GPU if there is one. Raises ConfigError for a device that cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
