"""Deep linear attention: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, trained while it reads.

A write takes one gradient step of size eta on the Hebbian loss L = -<M(k), v>:

    W_out <- W_out + eta h^T v,   W_in <- W_in + eta k^T ((v W_out^T) * gelu'(k W_in)),   h = gelu(k W_in)

with the gradient taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut
(inner_batch = 1: at the current weights). Inside such a batch the steps add up, so that reads are chunk-parallel. When a batch
begins, a matrix larger than `limit` times its first norm is scaled down to that: left alone, the two matrices feed each
other and grow without bound. Source: arXiv 2602.24281, section 4 (DLA); the chunked inner gradient as in arXiv 2407.04620; fast
weights held to a norm between chunks as in arXiv 2505.23884, section 3.
State: 2 * H * K * F floats (and as many again for the batch's base weights), F = expansion * K.
Cost: 6 * H * K * F.

For: more pairs a head than K in principle (the toy of docs/family.md does not show it), in segments that restart.
Can: recall through a nonlinear map, with F hidden units to tell keys apart.
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

from ..config import LayerConfig
from ..errors import ConfigError
from ..norm import l2
from ..state import State
from .base import Inputs, Memory, Written, wide
from .chunked import ChunkRead, chunks


@dataclass(frozen=True)
class DeepOptions:
    """expansion: F / K. inner_batch: writes that share one base for their gradients. rate: largest step eta.

    limit: how many times its first norm a matrix may have when a batch begins; None: no limit, as the paper writes it.
    """

    expansion: int = 4
    inner_batch: int = 16
    rate: float = 0.5
    limit: float | None = 2.0


@dataclass
class DeepState(State):
    """w_in [B, H, K, F], w_out [B, H, F, K] now, and the same at the running batch's base."""

    w_in: Tensor
    w_out: Tensor
    base_in: Tensor
    base_out: Tensor


def gelu_and_slope(z: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(z) and its derivative."""
    return F.gelu(z), 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def begins(wrote: Tensor | None, midway: Tensor) -> Tensor:
    """Whether a piece's first batch begins here: it is written to, and was not begun before."""
    return ~midway if wrote is None else wrote & ~midway


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
        self.batch, self.eta = options.inner_batch, options.rate
        heads, key, hidden = self.heads, self.key_dim, self.key_dim * options.expansion
        self.query = nn.Linear(cfg.d_model, heads * key, bias=False)
        self.write = nn.Linear(cfg.d_model, 2 * heads * key, bias=False)
        self.gates = nn.Linear(cfg.d_model, heads)
        self.w_in = nn.Parameter(torch.randn(heads, key, hidden) / math.sqrt(key))
        self.w_out = nn.Parameter(torch.randn(heads, hidden, key) / math.sqrt(hidden))

    @classmethod
    def check(cls, cfg: LayerConfig, options: DeepOptions) -> None:
        """M(q) = q + ... needs values as wide as keys."""
        if cfg.val_dim != cfg.key_dim:
            raise ConfigError(
                f"memory={cls.name!r} adds its output to its input, so value_dim={cfg.val_dim} must equal head_dim={cfg.key_dim}"
            )
        for key in ("expansion", "inner_batch"):
            value = getattr(options, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"memory_options {key}={value!r} must be a whole number of at least 1")
        for key in ("rate", "limit"):
            value = getattr(options, key)
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
            if not number and (key, value) != ("limit", None):
                raise ConfigError(f"memory_options {key}={value!r} must be a number above 0")

    @classmethod
    def align(cls, options: DeepOptions) -> int:
        """Batches are counted from the cut."""
        return options.inner_batch

    def init(self, batch: int) -> DeepState:
        """The learned initial weights."""
        both = wide(self.w_in), wide(self.w_out)
        return DeepState(*(w.repeat(batch, 1, 1, 1) for w in both + both))

    def queries(self, x: Tensor) -> Tensor:
        """q = l2(x W_q)."""
        return l2(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def key_and_value(self, c: Tensor) -> Inputs:
        """key = l2(c W_k), value = c W_v, each [R, M, H, K]."""
        key, value = self.write(c).unflatten(-1, (2, self.heads, self.key_dim)).unbind(-3)
        return {"key": l2(key), "value": value}

    def inputs(self, c: Tensor) -> Inputs:
        """key, value [R, M, H, K], eta [R, M, H]."""
        return self.key_and_value(c) | {"eta": self.eta * wide(self.gates(c)).sigmoid()}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """W_in and W_out."""
        deep = cast(DeepState, state)
        return (deep.w_in, deep.w_out)

    def join(self, stage: int, z: Tensor, query: Tensor) -> Tensor:
        """gelu between the matrices, the query added after them."""
        return F.gelu(z) if stage == 0 else query + z

    def limited(self, w_in: Tensor, w_out: Tensor, begins: Tensor | None) -> tuple[Tensor, Tensor]:
        """W min(1, limit |W_first| / |W|), Frobenius norms a head, in groups [G, 1, 1, 1] where a batch begins (None: all)."""
        if self.options.limit is None:
            return w_in, w_out
        found = []
        for now, first in ((w_in, self.w_in), (w_out, self.w_out)):
            most = self.options.limit * torch.linalg.vector_norm(wide(first), dim=(-2, -1), keepdim=True)
            size = torch.linalg.vector_norm(now, dim=(-2, -1), keepdim=True)
            less = now * (most / size.clamp(min=1e-12)).clamp(max=1.0)
            found.append(less if begins is None else torch.where(begins, less, now))
        return found[0], found[1]

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> DeepWritten:
        """See Memory.scan; one chunk is one inner batch."""
        size = self.batch
        eta = inputs["eta"] if valid is None else inputs["eta"] * valid.unsqueeze(-1)
        key, value, eta = wide(chunks(inputs["key"], size)), wide(chunks(inputs["value"], size)), chunks(eta, size).unsqueeze(-1)
        pieces, n = key.shape[1], key.shape[3]
        filled = None if valid is None else valid.unflatten(2, (-1, size)).any(-1)[..., None, None, None]
        now = cast(DeepState, state)
        w_in, w_out, base_in, base_out = now.w_in, now.w_out, now.base_in, now.base_out
        before: list[list[Tensor]] = [[], [], [], [], []]
        ends = []
        for s in range(pieces):
            midway = (skip[:, s] > 0)[:, None, None, None]
            for i in range(n):
                k, v = key[:, s, :, i], value[:, s, :, i]
                wrote = None if filled is None else filled[:, s, i]
                w_in, w_out = self.limited(w_in, w_out, wrote if i else begins(wrote, midway))
                at_in, at_out = w_in, w_out
                if i == 0:
                    at_in, at_out = torch.where(midway, base_in, w_in), torch.where(midway, base_out, w_out)
                hidden, slope = gelu_and_slope(k @ at_in)
                push = eta[:, s, :, i] * (v @ at_out.transpose(-1, -2)) * slope
                pull = eta[:, s, :, i] * v
                for kept, x in zip(before, (w_in, w_out, push, hidden, pull), strict=True):
                    kept.append(x)
                w_in = w_in + k.transpose(-1, -2) @ push
                w_out = w_out + hidden.transpose(-1, -2) @ pull
                if wrote is None:
                    base_in, base_out = at_in, at_out
                else:
                    base_in, base_out = torch.where(wrote, at_in, base_in), torch.where(wrote, at_out, base_out)
            ends.append((w_in, w_out, base_in, base_out))
        stacked = [torch.stack(x, 2).unflatten(2, (pieces, n)).transpose(1, 2) for x in before]
        was_in, was_out, push, hidden, pull = stacked
        readers = ChunkRead(key, push, None, was_in), ChunkRead(hidden, pull, None, was_out)
        return DeepWritten(readers, DeepState(*(torch.stack(x, 1) for x in zip(*ends, strict=True))))
