"""Validation of the states of torch's random generators.

torch copies the bytes of a state into the generator and checks only some of them: a state that claims more than the 624 used
words makes it read out of bounds. Here the bytes are parsed as numbers, checked against the states that a generator can have,
and packed again.

    CPU    Mersenne twister: u64 seed, i32 left, i32 seeded, u64 next, u64[624] words, f64[3] and i32 of old normals,
           f32 and bool of a kept normal. `left` words are unused: next + left = 625; directly after seeding left = 1, next = 0.
    CUDA   Philox: u64 seed, i64 offset, a multiple of 4.
"""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor

_TWISTER = struct.Struct("<QiiQ624Q3di4xf?3x")
_PHILOX = struct.Struct("<Qq")
WORDS = 624


def checked_state(state: Tensor) -> Tensor:
    """The state of a CPU generator, packed again from its numbers: uint8 [5056]. Raises ValueError for an invalid state."""
    seed, left, seeded, used, *rest = _TWISTER.unpack(_bytes(state, _TWISTER.size))
    words, (x, y, rho, old, kept) = rest[:WORDS], rest[WORDS : WORDS + 5]
    fits = seeded == 1 and (left, used) == (1, 0) or seeded == 1 and 1 <= left <= WORDS and left + used == WORDS + 1
    fits = fits and max(words) < 1 << 32 and any(words)
    fits = fits and old in (0, 1) and all(map(math.isfinite, (x, y, rho, kept)))
    fits = fits and bytes(state.tolist()[-4:-3]) in (b"\0", b"\1")
    if not fits:
        raise ValueError("the random generator's state is not a valid state of a torch generator")
    return _tensor(_TWISTER.pack(seed, left, seeded, used, *rest))


def checked_cuda_state(state: Tensor) -> Tensor:
    """The same for a CUDA generator: uint8 [16]."""
    seed, offset = _PHILOX.unpack(_bytes(state, _PHILOX.size))
    if offset < 0 or offset % 4:
        raise ValueError("the GPU's random generator's state is not a valid state of a torch generator")
    return _tensor(_PHILOX.pack(seed, offset))


def _bytes(state: Tensor, size: int) -> bytes:
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or tuple(state.shape) != (size,):
        raise ValueError(f"a random generator's state must be {size} bytes")
    return bytes(state.cpu().numpy())


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()
