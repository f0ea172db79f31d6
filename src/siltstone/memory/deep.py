"""Deep linear attention: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, trained at inference by its writes.

A write takes one gradient step of size eta on a Hebbian loss:

    L = -<M(k), v>,   W <- W - eta grad L for W_in and W_out,   eta = inner_lr * sigmoid(c W_e + b_e), one per head; that is,
    W_out <- W_out + eta h^T v,   W_in <- W_in + eta k^T ((v W_out^T) * gelu'(k W_in)),   h = gelu(k W_in)

The gradient is taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut
(inner_batch = 1: at the current weights). Inside such a batch the steps add up, so reads are chunk-parallel. When a batch
begins, a matrix whose norm exceeds `limit` times its initial norm is scaled down to that norm: without the limit the two
matrices amplify each other and grow without bound. Source: arXiv 2602.24281, section 4 (DLA); the chunked inner gradient as in
arXiv 2407.04620; fast weights limited in norm between chunks as in arXiv 2505.23884, section 3.
State: 4 * H * K * F floats: the weights, and the batch's base, F = expansion * K.
Cost: 6 * H * K * F.

For: more than K pairs per head in principle (the toy of docs/family.md does not show it), in segments that restart.
Can: recall through a nonlinear map, with F hidden units to tell keys apart; with `inner_batch=1`, learn parity, but with errors.
Cannot: replace a value: writes to the same key add up. It forgets only when the limit scales a matrix down, which fades all
pairs equally; with limit=null the weights grow exponentially in a long segment. A gradient ignores the other writes of its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.checks import whole, whole_updates
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import deep, mlp
from ..ops.norm import l2
from ..ops.upcast import upcast
from ..state.tree import State
from .base import MOST, Inputs, ScanOutput, logits
from .inner_batch import InnerBatchMemory


@dataclass(frozen=True)
class DeepOptions:
    """expansion: F / K. inner_batch: writes that take their gradients at the same base weights. inner_lr: upper bound of the step
    size eta.

    limit: the largest norm of a matrix at the start of a batch, and of a merged matrix, in units of its initial norm; None: no
    limit, as in the paper.
    """

    expansion: int = 4
    inner_batch: int = 16
    inner_lr: float = 0.5
    limit: float | None = 2.0


@dataclass
class DeepState(State):
    """w_in [B, H, K, F] and w_out [B, H, F, K]: the current weights; base_in and base_out: the weights at the batch's start."""

    w_in: Tensor
    w_out: Tensor
    base_in: Tensor
    base_out: Tensor


class Deep(InnerBatchMemory):
    """W <- W - eta grad_W L(W_base)."""

    name: ClassVar[str] = "deep"
    Options = DeepOptions

    def __init__(self, cfg: LayerConfig, options: DeepOptions):
        super().__init__(cfg, options)
        self.eta = options.inner_lr
        heads, key, hidden = self.heads, self.key_dim, self.key_dim * options.expansion
        self.write = nn.Linear(cfg.d_model, 2 * heads * key, bias=False)
        self.gates = nn.Linear(cfg.d_model, heads)
        self.w_in = nn.Parameter(torch.randn(heads, key, hidden) / math.sqrt(key))
        self.w_out = nn.Parameter(torch.randn(heads, hidden, key) / math.sqrt(hidden))

    @classmethod
    def check(cls, cfg: LayerConfig, options: DeepOptions) -> None:
        """M(q) = q + ...: `value_dim` must equal `head_dim`; `inner_batch` must be a multiple of `compress_every / rate`."""
        if cfg.val_dim != cfg.key_dim:
            raise ConfigError(
                f"memory={cls.name!r} adds its output to its input, so value_dim={cfg.val_dim} must equal "
                f"head_dim={cfg.key_dim}; leave value_dim out, or set value_dim={cfg.key_dim}"
            )
        for key in ("expansion", "inner_batch"):
            whole(f"memory_options {key}", getattr(options, key), 1, MOST)
        whole_updates(cfg, options.inner_batch)
        for key in ("inner_lr", "limit"):
            value, default = getattr(options, key), getattr(cls.Options(), key)
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
            if not number and (key, value) != ("limit", None):
                raise ConfigError(f"memory_options {key}={value!r} must be a finite number above 0, for example {default}")

    def init(self, batch: int) -> DeepState:
        """The learned initial weights."""
        both = upcast(self.w_in), upcast(self.w_out)
        return DeepState(*(w.repeat(batch, 1, 1, 1) for w in both + both))

    def key_and_value(self, c: Tensor) -> Inputs:
        """key = l2(c W_k), value = c W_v, each [R, M, H, K]."""
        key, value = self.write(c).unflatten(-1, (2, self.heads, self.key_dim)).unbind(-3)
        return {"key": l2(key), "value": value}

    def inputs(self, c: Tensor) -> Inputs:
        """key, value [R, M, H, K], eta [R, M, H]."""
        return self.key_and_value(c) | {"eta": self.eta * logits(self.gates, c).sigmoid()}

    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """W_in and W_out."""
        now = cast(DeepState, state)
        return (now.w_in, now.w_out)

    def settled(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Scaled down to the limit, as at the start of a batch."""
        most = self.most()
        return sums if most is None else tuple(mlp.limited(w, m.unsqueeze(2)) for w, m in zip(sums, most, strict=True))

    def activation(self, factor: int, z: Tensor, query: Tensor) -> Tensor:
        """gelu between the matrices; the query is added after them."""
        return mlp.activation(factor, z, query)

    def most(self) -> Tensor | None:
        """The largest Frobenius norm of each of the two matrices at the start of a batch, [2, 1, H, 1, 1]; None: no limit."""
        if self.options.limit is None:
            return None
        return self.options.limit * mlp.norms(mlp.pair(upcast(self.w_in).unsqueeze(0), upcast(self.w_out).unsqueeze(0)))

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> DeepState:
        """See Memory.step."""
        now, given = cast(DeepState, state), (inputs[name] for name in ("key", "value", "eta"))
        leaves = now.w_in, now.w_out, now.base_in, now.base_out
        return DeepState(*deep.step(leaves, *given, most=self.most(), begins=begins))

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan; one chunk is one inner batch."""
        now, given = cast(DeepState, state), (inputs[name] for name in ("key", "value", "eta"))
        leaves = now.w_in, now.w_out, now.base_in, now.base_out
        readers, ends = deep.chunk(leaves, *given, most=self.most(), valid=valid, skip=skip, size=self.batch)
        return ScanOutput(DeepState(*ends), *readers)
