"""Samples a token from logits, and removes stop strings from a stream of text pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError


def check_options(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """InputError unless temperature >= 0, top_k is None or >= 1, top_p is None or in (0, 1].

    These are options of the sampler: `top_k` is a number of tokens. `top_k` and `temperature` of a configuration are unrelated.
    """
    if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
        raise InputError(f"temperature={temperature!r} must be a number of at least 0 (0 takes the most probable token)")
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise InputError(f"top_k={top_k!r} must be a whole number of at least 1; leave it out for all tokens")
    if top_p is not None and not (isinstance(top_p, (int, float)) and 0 < top_p <= 1):
        raise InputError(f"top_p={top_p!r} must be above 0 and at most 1; leave it out, or give 1 for all tokens")


def sample(
    logits_V: Tensor, generator: torch.Generator, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> int:
    """Samples one id from softmax(logits / temperature), restricted to the top_k most probable ids, and of these to the fewest
    whose total probability reaches top_p.

    Takes one random number a token (none at temperature 0) from `generator`. It is a CPU generator for a model on any device,
    so that a saved sampler can resume on any device. Raises CheckpointError if the logits are nan or +infinite.
    """
    x = logits_V.detach().to("cpu", torch.float32)
    if bool(torch.isnan(x).any()) or bool((x == math.inf).any()):
        raise CheckpointError("the model's logits are not finite: its weights are damaged; load another checkpoint")
    if temperature == 0:
        return int(x.argmax())
    x, order = torch.sort((x - x.max()) / temperature, descending=True, stable=True)
    p = torch.softmax(x[:top_k], 0, dtype=torch.float64)
    mass = p.cumsum(0)
    if top_p is not None and top_p < 1:
        mass = mass[: int((mass < top_p).sum()) + 1]
    u = torch.rand((), generator=generator, dtype=torch.float64, device="cpu") * mass[-1]
    return int(order[min(int((mass <= u).sum()), len(mass) - 1)])


class StopStrings:
    """Holds text back while it may be the beginning of a stop string.

    `push` returns the text that can be shown and whether a stop string was found. The stop string and all text after it are
    dropped.
    """

    def __init__(self, stop: str | Sequence[str]) -> None:
        self.stop = [stop] if isinstance(stop, str) else list(stop) if isinstance(stop, Sequence | set) else [stop]
        for s in self.stop:
            if not isinstance(s, str) or not s:
                raise InputError(f"stop={stop!r} must be a string, or several strings, of at least one character each")
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text to show now, and whether to stop."""
        self.held += text
        met = [at for at in (self.held.find(s) for s in self.stop) if at >= 0]
        if met:
            shown, self.held = self.held[: min(met)], ""
            return shown, True
        keep = max((self._begun(s) for s in self.stop), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, False

    def finish(self) -> str:
        """The rest of the text that was held back; it contains no stop string."""
        shown, self.held = self.held, ""
        return shown

    def _begun(self, stop: str) -> int:
        """Length of the longest suffix of the held text that is a proper prefix of `stop`."""
        return next((n for n in range(min(len(stop) - 1, len(self.held)), 0, -1) if self.held.endswith(stop[:n])), 0)
