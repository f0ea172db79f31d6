"""Deep linear attention: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, trained while it reads.

A write takes one gradient step of size eta on a Hebbian loss:

    L = -<M(k), v>,   W <- W - eta grad L for W_in and W_out,   eta = inner_lr * sigmoid(c W_e + b_e), one a head, which is
    W_out <- W_out + eta h^T v,   W_in <- W_in + eta k^T ((v W_out^T) * gelu'(k W_in)),   h = gelu(k W_in)

with the gradient taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut
(inner_batch = 1: at the current weights). Inside such a batch the steps add up, so that reads are chunk-parallel. When a batch
begins, a matrix larger than `limit` times its first norm is scaled down to that: left alone, the two matrices feed each
other and grow without bound. Source: arXiv 2602.24281, section 4 (DLA); the chunked inner gradient as in arXiv 2407.04620; fast
weights held to a norm between chunks as in arXiv 2505.23884, section 3.
State: 4 * H * K * F floats: the weights, and the batch's base, F = expansion * K.
Cost: 6 * H * K * F.

For: more pairs a head than K in principle (the toy of docs/family.md does not show it), in segments that restart.
Can: recall through a nonlinear map, with F hidden units to tell keys apart; with `inner_batch=1` follow parity, not faultlessly.
Cannot: replace: writes to a key add up. It forgets only by being held to its limit, everything alike; with limit=null the weights
of a long segment grow exponentially. It sees no write of its own inner batch when it takes a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.checks import whole, whole_updates
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops.norm import l2
from ..state.tree import State
from .base import MOST, Inputs, Memory, Written, logits, wide
from .chunked import ChunkRead, chunks


@dataclass(frozen=True)
class DeepOptions:
    """expansion: F / K. inner_batch: writes that share one base for their gradients. inner_lr: largest step
    eta.

    limit: how many times its first norm a matrix may have when a batch begins, and merged ones; None: no limit, as the paper
    writes it.
    """

    expansion: int = 4
    inner_batch: int = 16
    inner_lr: float = 0.5
    limit: float | None = 2.0


@dataclass
class DeepState(State):
    """w_in [B, H, K, F], w_out [B, H, F, K] now, and the same at the running batch's base."""

    w_in: Tensor
    w_out: Tensor
    base_in: Tensor
    base_out: Tensor


def pair(w_in: Tensor, w_out: Tensor) -> Tensor:
    """Both matrices in one, [2, G, H, K, F], the second transposed: what is done to each is then one call."""
    return torch.stack([w_in, w_out.transpose(-1, -2)])


def unpair(both: Tensor) -> tuple[Tensor, Tensor]:
    """The way back: [2, ..., K, F] -> [..., K, F] and [..., F, K]."""
    w_in, w_out = both.unbind(0)
    return w_in, w_out.transpose(-1, -2)


def batches(x: Tensor) -> tuple[Tensor, ...]:
    """[G, S, H, n, ...] -> one [G, H, ...] for each batch of each piece, in order."""
    return x.transpose(2, 3).flatten(1, 2).unbind(1)


def gathered(x: list[Tensor], pieces: int, first: int = 0) -> Tensor:
    """The way back: [G, S, H, n, ...]; of pairs (first = 1) [2, G, S, H, n, ...]."""
    return torch.stack(x, first + 2).unflatten(first + 2, (pieces, -1)).transpose(first + 1, first + 2)


def leaves(ends: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """The leaves [G, S, ...] of a state after each piece, from its pairs: tensors of their own."""
    pairs = [unpair(torch.stack(x, 2)) for x in zip(*ends, strict=True)]
    return [x.clone(memory_format=torch.contiguous_format) for two in pairs for x in two]


def begun(valid: Tensor | None, skip: Tensor, size: int, count: int) -> list[Tensor | None]:
    """For each batch of each piece: the groups where it begins with this call, bool [G, 1, 1, 1]; None: all of them.

    It does not where nothing is written, and where a piece goes on in the middle of its first batch.
    """
    if valid is None:
        return [None] * count
    wrote = valid.unflatten(2, (-1, size)).any(-1)
    wrote[:, :, 0] &= skip == 0
    return list(wrote.flatten(1, 2)[..., None, None, None].unbind(1))


class Reader(Protocol):
    """What reads one matrix as it stands at each query."""

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """[G, S, H, L*rate, in] -> [G, S, H, L*rate, out]."""
        ...


class DeepWritten(Written):
    """Both matrices during a call."""

    def __init__(self, readers: tuple[Reader, Reader], ends: DeepState):
        self.readers, self.ends = readers, ends

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """See Written."""
        return self.readers[stage].read(z, group)


class Deep(Memory):
    """W <- W - eta grad_W L(W_base)."""

    name: ClassVar[str] = "deep"
    Options = DeepOptions
    stages_count: ClassVar[int] = 2
    read_is_linear = False

    def __init__(self, cfg: LayerConfig, options: DeepOptions):
        super().__init__(cfg, options)
        self.batch, self.eta = options.inner_batch, options.inner_lr
        heads, key, hidden = self.heads, self.key_dim, self.key_dim * options.expansion
        self.query = nn.Linear(cfg.d_model, heads * key, bias=False)
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

    @classmethod
    def align(cls, options: DeepOptions) -> int:
        """Batches are counted from the cut."""
        return options.inner_batch

    def init(self, batch: int) -> DeepState:
        """The learned initial weights."""
        both = wide(self.w_in), wide(self.w_out)
        return DeepState(*(w.repeat(batch, 1, 1, 1) for w in both + both))

    def queries(self, x: Tensor) -> Tensor:
        """q = l2(c W_q)."""
        return l2(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def key_and_value(self, c: Tensor) -> Inputs:
        """key = l2(c W_k), value = c W_v, each [R, M, H, K]."""
        key, value = self.write(c).unflatten(-1, (2, self.heads, self.key_dim)).unbind(-3)
        return {"key": l2(key), "value": value}

    def inputs(self, c: Tensor) -> Inputs:
        """key, value [R, M, H, K], eta [R, M, H]."""
        return self.key_and_value(c) | {"eta": self.eta * logits(self.gates, c).sigmoid()}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """W_in and W_out."""
        deep = cast(DeepState, state)
        return (deep.w_in, deep.w_out)

    def settled(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Held to the limit, as a batch is where it begins."""
        most = self.most()
        return sums if most is None else tuple(limited(w, m.unsqueeze(2), None) for w, m in zip(sums, most, strict=True))

    def join(self, stage: int, z: Tensor, query: Tensor) -> Tensor:
        """gelu between the matrices, the query added after them."""
        return F.gelu(z) if stage == 0 else query + z

    def most(self) -> Tensor | None:
        """The largest Frobenius norm of each matrix of a pair when a batch begins, [2, 1, H, 1, 1]; None: any."""
        if self.options.limit is None:
            return None
        return self.options.limit * norms(pair(wide(self.w_in).unsqueeze(0), wide(self.w_out).unsqueeze(0)))

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> DeepWritten:
        """See Memory.scan; one chunk is one inner batch."""
        size, now = self.batch, cast(DeepState, state)
        eta = inputs["eta"] if valid is None else inputs["eta"] * valid.unsqueeze(-1)
        key, value = wide(chunks(inputs["key"], size)), wide(chunks(inputs["value"], size))
        pull = chunks(eta, size).unsqueeze(-1) * value
        pieces, n = key.shape[1], key.shape[3]
        most, w, base = self.most(), pair(now.w_in, now.w_out), pair(now.base_in, now.base_out)
        before, pushes, hiddens, ends = [], [], [], []
        for i, (k, p, begins) in enumerate(zip(batches(key), batches(pull), begun(valid, skip, size, pieces * n), strict=True)):
            w, base = based(w, base, most, begins)
            at_in, at_out = base.unbind(0)
            z = k @ at_in
            hidden, push = F.gelu(z), torch.ops.aten.gelu_backward(p @ at_out, z)
            for kept, x in zip((before, pushes, hiddens), (w, push, hidden), strict=True):
                kept.append(x)
            w = w + torch.stack([k, p]).transpose(-1, -2) @ torch.stack([push, hidden])
            if i % n == n - 1:
                ends.append((w, base))
        push, hidden = gathered(pushes, pieces), gathered(hiddens, pieces)
        was_in, was_out = unpair(gathered(before, pieces, 1))
        readers = ChunkRead(key, push, None, was_in), ChunkRead(hidden, pull, None, was_out)
        return DeepWritten(readers, DeepState(*leaves(ends)))


def based(w: Tensor, base: Tensor, most: Tensor | None, begins: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weights and the base of a batch's gradients: where it begins (None: everywhere), the weights held to `most`."""
    w = limited(w, most, begins)
    return w, w if begins is None else torch.where(begins, w, base)


def norms(both: Tensor) -> Tensor:
    """Frobenius norms of matrices [..., K, F] -> [..., 1, 1]."""
    return torch.linalg.vector_norm(both, dim=(-2, -1), keepdim=True)


def limited(both: Tensor, most: Tensor | None, begins: Tensor | None) -> Tensor:
    """W min(1, most / |W|), a head and a matrix, in the groups where a batch begins (None: all)."""
    if most is None:
        return both
    less = (most / norms(both).clamp(min=1e-12)).clamp(max=1.0)
    return both * (less if begins is None else less.where(begins, less.new_ones(())))
