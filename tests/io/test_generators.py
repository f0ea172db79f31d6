"""States of random generators: those that torch makes pass unchanged, and impossible ones never reach it."""

from __future__ import annotations

import struct

import pytest
import torch

from siltstone.io.generators import checked_cuda_state, checked_state

LEFT, SEEDED, NEXT, WORDS, OLD, KEPT = 8, 12, 16, 24, 24 + 624 * 8 + 24, 5048


def test_every_state_of_a_generator_passes() -> None:
    generator = torch.Generator().manual_seed(-5)
    for i in range(1300):  # more than twice the twister's 624 words
        state = generator.get_state()
        assert torch.equal(checked_state(state), state), i
        if i % 50 == 0:
            torch.empty(i % 7 + 1).normal_(generator=generator)  # an odd number keeps one normal for later
        torch.rand((), generator=generator, dtype=torch.float64 if i % 3 else torch.float32)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (NEXT, "<iiQ", (624, 1, 624)),
        (NEXT, "<Q", (625,)),
        (NEXT, "<Q", (2**63,)),
        (LEFT, "<i", (0,)),
        (LEFT, "<i", (-1,)),
        (LEFT, "<i", (625,)),
        (SEEDED, "<i", (0,)),
        (WORDS, "<Q", (1 << 32,)),
        (OLD - 24, "<d", (float("nan"),)),
        (OLD, "<i", (7,)),
        (KEPT, "<f", (float("inf"),)),
        (KEPT + 4, "<B", (2,)),
    ],
)
@pytest.mark.parametrize("draws", [0, 1, 700])
def test_a_state_that_cannot_be_is_refused(draws: int, at: int, form: str, value: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    torch.rand(draws, generator=generator)
    data = bytearray(generator.get_state().numpy().tobytes())
    at = LEFT if form == "<iiQ" else at
    struct.pack_into(form, data, at, *value)
    with pytest.raises(ValueError, match="not a valid state of a torch generator"):
        checked_state(torch.frombuffer(data, dtype=torch.uint8))


@pytest.mark.parametrize("state", [torch.zeros(7, dtype=torch.uint8), torch.zeros(5056), torch.zeros(5055, dtype=torch.uint8)])
def test_other_sizes_and_types(state: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="5056 bytes"):
        checked_state(state)


def test_a_state_of_zeros() -> None:
    with pytest.raises(ValueError, match="not a valid state"):
        checked_state(torch.zeros(5056, dtype=torch.uint8))


@pytest.mark.parametrize(("offset", "fits"), [(0, True), (8, True), (-4, False), (3, False)])
def test_philox(offset: int, fits: bool) -> None:
    state = torch.frombuffer(bytearray(struct.pack("<Qq", 1, offset)), dtype=torch.uint8)
    if fits:
        assert torch.equal(checked_cuda_state(state), state)
        return
    with pytest.raises(ValueError, match="GPU"):
        checked_cuda_state(state)
