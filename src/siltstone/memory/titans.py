"""Titans: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, that learns with momentum and forgetting while it reads.

A write takes a step on the loss L, with rates read from the token, one of each a head:

    L = |M(k) - v|^2,   S <- eta S - theta grad L,   W <- (1 - alpha) W + S        for W_in and W_out alike
    alpha = sigmoid(c W_a),   eta = sigmoid(c W_e),   theta = inner_lr * sigmoid(c W_t)        each with a bias

with the gradient taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut, and
weights held to `limit` times their first norm when such a batch begins, as in `deep`. Inside
such a batch both recurrences are linear, W_i = a_i W_0 + d_i S_0 + sum_{j<=i} C_ij (-theta_j grad_j) with C the product
of two triangular matrices of decays, so that reads are chunk-parallel. Source: arXiv 2501.00663, eqs. 12 to 14.
State: 6 * H * K * F floats: the weights, their momenta, and the batch's base, F = expansion * K.
Cost: 11 * H * K * F.

For: more pairs a head than K in principle, that change (in the toy of docs/family.md with `inner_batch=1` alone), where the time
of a token matters less.
Can: recall through a nonlinear map; correct what a key holds, a step at a time; forget; go on writing after a surprise.
Cannot: replace in one write; follow parity, which it learns in the toy of docs/family.md at no setting. It sees no write of
its own inner batch when it takes a gradient, so that a key that comes often in one batch is overshot where `inner_lr` times
`inner_batch` is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import titans
from ..ops.upcast import upcast
from ..state.tree import State
from .base import Inputs, ScanOutput, logits
from .deep import Deep, DeepOptions, DeepState


@dataclass(frozen=True)
class TitansOptions(DeepOptions):
    """See DeepOptions; inner_lr: largest theta."""

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
        self.gates = nn.Linear(cfg.d_model, 3 * self.heads)
        with torch.no_grad():  # forgets over some hundred writes, gathers over a few
            self.gates.bias.copy_(torch.tensor([-6.0, 0.0, -2.0]).repeat_interleave(self.heads))

    def init(self, batch: int) -> TitansState:
        """The learned initial weights, at rest."""
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
