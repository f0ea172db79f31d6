"""Gated linear memory: S_t = a_t S_{t-1} + b_t k_t^T v_t, o = q S, one decay a and one beta b per head.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b)        each with a bias
    with decay="channel": log a = max(logsigmoid(c W_a), -5), one for each of the K channels of a head

Source: arXiv 2405.21060 (scalar decay, SSD), with a write gate; the decay per channel, arXiv 2312.06635 (GLA).
State: H * K * V floats.
Cost: 3 * H * K * V.

For: the gist of recent text at the least cost; the default.
Can: forget at a rate that each token sets; recall about K recent keys per head; with `decay="channel"`, clear the channels of
one key, if keys use separate channels.
Cannot: replace one of many keys without fading the others; compute parity: no decay is negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import gated
from ..ops.gated import CHANNELS
from ..state.tree import State
from .base import Inputs, ScanOutput, biased, logits, spans
from .matrix import MatrixMemory, MatrixState


class GatedMatrixMemory(MatrixMemory):
    """A matrix memory with a decay (log space) and a beta per head, both computed from the token."""

    decays: bool = True  # a decay per head; False: this class computes no decay

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        first = [spans(self.heads)] if self.decays else []
        self.gates = biased(cfg.d_model, torch.cat([*first, torch.zeros(self.heads)]))

    def inputs(self, c: Tensor) -> Inputs:
        """key [R, M, H, K], value [R, M, H, V], decay [R, M, H] in log space, beta [R, M, H]."""
        gates = logits(self.gates, c)
        if not self.decays:
            return super().inputs(c) | {"decay": torch.zeros_like(gates), "beta": gates.sigmoid()}
        decay, beta = gates.chunk(2, -1)
        return super().inputs(c) | {"decay": F.logsigmoid(decay), "beta": beta.sigmoid()}

    def given(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """k, v, log a and b."""
        return inputs["key"], inputs["value"], inputs["decay"], inputs["beta"]


@dataclass(frozen=True)
class GatedOptions:
    """decay: one per "head" (arXiv 2405.21060), or one per "channel" of the keys (arXiv 2312.06635, eq. 3)."""

    decay: str = "head"


class Gated(GatedMatrixMemory):
    """S <- a S + b k^T v; a is one number per head, or one per row of S (a channel's decay is at least e^-5)."""

    name: ClassVar[str] = "gated"
    Options = GatedOptions
    variants = ({"decay": "channel"},)

    def __init__(self, cfg: LayerConfig, options: GatedOptions):
        self.decays = options.decay == "head"
        super().__init__(cfg, options)
        self.fade: nn.Linear | None = None
        self.merges = (self.heads,) if self.decays else (self.heads, self.key_dim)
        if options.decay == "channel":
            self.chunk = CHANNELS
            self.fade = biased(cfg.d_model, spans(self.key_dim).repeat(self.heads))

    @classmethod
    def check(cls, cfg: LayerConfig, options: GatedOptions) -> None:
        """`decay="channel"` requires `compress_every / rate` of at most 32 (two chunks of its scan)."""
        if options.decay not in ("head", "channel"):
            raise ConfigError(f"memory_options decay={options.decay!r} is not known; choose 'head' or 'channel'")
        if options.decay == "channel" and cfg.group > 2 * CHANNELS:
            raise ConfigError(
                f"compress_every={cfg.every} with rate={cfg.rate} makes {cfg.group} writes at once; memory_options "
                f"decay='channel' allows at most {2 * CHANNELS}, because powers of its decays must fit float32; set "
                f"compress_every to at most {2 * CHANNELS * cfg.rate}, a larger rate, or decay='head'"
            )

    def inputs(self, c: Tensor) -> Inputs:
        """key, value, beta, and decay in log space: [R, M, H], or [R, M, H, K] with `decay="channel"`."""
        found = super().inputs(c)
        if self.fade is None:
            return found
        fade = F.logsigmoid(logits(self.fade, c)).clamp(min=-5.0)
        return found | {"decay": fade.unflatten(-1, (self.heads, self.key_dim))}

    def log_decay(self, inputs: Inputs) -> Tensor:
        """log a."""
        return inputs["decay"]

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan."""
        reader, ends = gated.chunk(self.matrix(state), *self.given(inputs), valid=valid, size=self.chunk)
        return ScanOutput(MatrixState(ends), reader)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> MatrixState:
        """See Memory.step."""
        return MatrixState(gated.step(self.matrix(state), *self.given(inputs)))
