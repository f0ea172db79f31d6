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
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..state.tree import State
from .base import Inputs, last_seen, logits, wide
from .chunked import chunks, decays
from .deep import Deep, DeepOptions, DeepState, DeepWritten, based, batches, begun, gathered, leaves, pair, unpair


@dataclass(frozen=True)
class TitansOptions(DeepOptions):
    """See DeepOptions; inner_lr: largest theta."""

    inner_lr: float = 0.1


@dataclass
class TitansState(DeepState):
    """DeepState, and the momenta of both matrices."""

    moment_in: Tensor
    moment_out: Tensor


class MomentumRead:
    """o_i = fade_i q_i W_0 + drift_i q_i S_0 + sum_{j<=i} factor_ij (q_i k_j) v_j.

    keys [G, S, H, n, c, K], values [G, S, H, n, c, V], factor [G, S, H, n, c, c], fade, drift [G, S, H, n, c, 1],
    before, momentum [G, S, H, n, K, V]: at each batch's start.
    """

    def __init__(self, keys: Tensor, values: Tensor, rates: tuple[Tensor, Tensor, Tensor], before: Tensor, momentum: Tensor):
        self.parts = keys, values, *rates, before, momentum

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, K] -> [G, S, H, L*rate, V]."""
        n, c = self.parts[0].shape[3:5]
        z = z.unflatten(3, (n, -1))
        kind, z = z.dtype, wide(z)  # its terms nearly cancel
        keys, values, factor, fade, drift, before, momentum = self.parts
        if z.shape[4] > c or group > 1:
            seen = last_seen(c, z.shape[4], group, z.device)
            factor, fade, drift = (x.index_select(4, seen) for x in (factor, fade, drift))
        near = (z @ keys.transpose(-1, -2) * factor) @ values
        return torch.addcmul(torch.addcmul(near, fade, z @ before), drift, z @ momentum).flatten(3, 4).to(kind)


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
        now, base = ([wide(w).repeat(batch, 1, 1, 1) for w in (self.w_in, self.w_out)] for _ in range(2))
        return TitansState(now[0], now[1], base[0], base[1], torch.zeros_like(now[0]), torch.zeros_like(now[1]))

    def inputs(self, c: Tensor) -> Inputs:
        """key, value [R, M, H, K]; keep = log(1 - alpha), momentum = log(eta), theta, each [R, M, H]."""
        alpha, eta, theta = logits(self.gates, c).chunk(3, -1)
        found = self.key_and_value(c)
        return found | {"keep": F.logsigmoid(-alpha), "momentum": F.logsigmoid(eta), "theta": self.eta * theta.sigmoid()}

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> DeepWritten:
        """See Memory.scan; one chunk is one inner batch."""
        size, now = self.batch, cast(TitansState, state)
        keep, momentum, theta = (inputs[name] for name in ("keep", "momentum", "theta"))
        there = torch.ones_like(theta)
        if valid is not None:
            there = there * valid.unsqueeze(-1)
            keep, momentum, theta = keep * there, momentum * there, theta * there
        key, value = (wide(chunks(inputs[name], size)) for name in ("key", "value"))
        kept, moved = chunks(keep, size).cumsum(-1), chunks(momentum, size).cumsum(-1)
        theta, there = chunks(theta, size).unsqueeze(-1), chunks(there, size)
        fading, carrying = (decays(x, 1) for x in (kept, moved))
        factor = (fading * there.unsqueeze(-2)) @ carrying
        fade, drift = kept.exp().unsqueeze(-1), (fading * (there * moved.exp()).unsqueeze(-2)).sum(-1, keepdim=True)
        pieces, n = key.shape[1], key.shape[3]
        share = torch.stack([factor[..., -1, :], carrying[..., -1, :]], -1).unsqueeze(-1)  # of each write in W and S at the end
        last = zip(*(batches(x[..., -1:, :]) for x in (fade, drift, moved.exp().unsqueeze(-1))), strict=True)
        each = zip(
            batches(key),
            batches(key - value),
            batches(-2 * theta),
            batches(share),
            last,
            begun(valid, skip, size, pieces * n),
            strict=True,
        )
        most, w, base = self.most(), pair(now.w_in, now.w_out), pair(now.base_in, now.base_out)
        moment = pair(now.moment_in, now.moment_out)
        seen: list[list[Tensor]] = [[] for _ in range(5)]
        ends = []
        for i, (k, away, step, part, (fades, drifts, moves), begins) in enumerate(each):
            w, base = based(w, base, most, begins)
            at_in, at_out = base.unbind(0)
            z = k @ at_in
            hidden = F.gelu(z)
            miss = step * (away + hidden @ at_out.transpose(-1, -2))
            push = torch.ops.aten.gelu_backward(miss @ at_out, z)
            for kept_, x in zip(seen, (w, moment, push, hidden, miss), strict=True):
                kept_.append(x)
            ins, outs = torch.stack([k, miss]), torch.stack([push, hidden])
            grown, more = ((ins.unsqueeze(-2) * part).flatten(-2).transpose(-1, -2) @ outs).unflatten(-2, (2, -1)).unbind(-3)
            w = torch.addcmul(torch.addcmul(grown, fades, w), drifts, moment)
            moment = torch.addcmul(more, moves, moment)
            if i % n == n - 1:
                ends.append((w, base, moment))
        push, hidden, miss = (gathered(x, pieces) for x in seen[2:])
        (was_in, was_out), (mom_in, mom_out) = (unpair(gathered(x, pieces, 1)) for x in seen[:2])
        rates = factor, fade, drift
        readers = MomentumRead(key, push, rates, was_in, mom_in), MomentumRead(hidden, miss, rates, was_out, mom_out)
        return DeepWritten(readers, TitansState(*leaves(ends)))
