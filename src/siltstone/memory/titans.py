"""Titans: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, trained at inference with momentum and weight decay.

A write takes a step on the loss L, with rates computed from the token, one of each per head:

    L = |M(k) - v|^2,   S <- eta S - theta grad L,   W <- (1 - alpha) W + S        for W_in and W_out alike
    alpha = sigmoid(c W_a),   eta = sigmoid(c W_e),   theta = inner_lr * sigmoid(c W_t)        each with a bias

The gradient is taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut, and norms
are limited to `limit` times the initial norm when such a batch begins, as in `deep`. Inside such a batch both recurrences are
linear, W_i = a_i W_0 + d_i S_0 + sum_{j<=i} C_ij (-theta_j grad_j) with C the product of two triangular matrices of decays, so
reads are chunk-parallel. Source: arXiv 2501.00663, eqs. 12 to 14.
State: 6 * H * K * F floats: the weights, their momenta, and the batch's base, F = expansion * K.
Cost: 11 * H * K * F.

For: more than K pairs per head in principle, with values that change (in the toy of docs/family.md only with `inner_batch=1`),
if cost per token matters less.
Can: recall through a nonlinear map; correct the value of a key step by step; forget; keep writing after a surprise (momentum).
Cannot: replace a value in one write; compute parity: no setting learns it in the toy of docs/family.md. A gradient ignores the
other writes of its batch, so a key that occurs often in one batch overshoots if `inner_lr` times `inner_batch` is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import titans
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput, biased, logits
from .deep import Deep, DeepOptions, DeepState


@dataclass(frozen=True)
class TitansOptions(DeepOptions):
    """See DeepOptions; inner_lr: upper bound of theta."""

    inner_lr: float = 0.1


@dataclass
class TitansState(DeepState):
    """DeepState, and the momenta of both matrices."""

    moment_in: Tensor
    moment_out: Tensor


class Titans(Deep):
    """S <- eta S - theta grad L(W_base), W <- (1 - alpha) W + S."""

    name: ClassVar[str] = "titans"
    Options = TitansOptions

    def __init__(self, cfg: LayerConfig, options: DeepOptions):
        super().__init__(cfg, options)
        first = torch.tensor([-6.0, 0.0, -2.0])  # weights decay over a few hundred writes, momentum lasts a few writes
        self.gates = biased(cfg.d_model, first.repeat_interleave(self.heads))

    def init(self, batch: int) -> TitansState:
        """The learned initial weights; momenta 0."""
        now, base = ([upcast(w).repeat(batch, 1, 1, 1) for w in (self.w_in, self.w_out)] for _ in range(2))
        return TitansState(now[0], now[1], base[0], base[1], torch.zeros_like(now[0]), torch.zeros_like(now[1]))

    def inputs(self, c: Tensor) -> Inputs:
        """key, value [R, M, H, K]; keep = log(1 - alpha), momentum = log(eta), theta, each [R, M, H]."""
        alpha, eta, theta = logits(self.gates, c).chunk(3, -1)
        found = self.key_and_value(c)
        return found | {"keep": F.logsigmoid(-alpha), "momentum": F.logsigmoid(eta), "theta": self.eta * theta.sigmoid()}

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> TitansState:
        """See Memory.step."""
        now, given = cast(TitansState, state), (inputs[name] for name in ("key", "value", "keep", "momentum", "theta"))
        leaves = now.w_in, now.w_out, now.base_in, now.base_out, now.moment_in, now.moment_out
        return TitansState(*titans.step(leaves, *given, most=self.most(), begins=begins))

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan; one chunk is one inner batch."""
        now, gates = cast(TitansState, state), (inputs[name] for name in ("keep", "momentum", "theta"))
        leaves = now.w_in, now.w_out, now.base_in, now.base_out, now.moment_in, now.moment_out
        more: dict[str, Any] = {"most": self.most(), "valid": valid, "skip": skip, "size": self.batch}
        readers, ends = titans.chunk(leaves, inputs["key"], inputs["value"], *gates, **more)
        return ScanOutput(TitansState(*ends), *readers)
