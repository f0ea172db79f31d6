"""Deep linear attention: the memory is a small MLP, M(q) = q + gelu(q W_in) W_out, trained while it reads.

A write takes one gradient step of size eta on the Hebbian loss L = -<M(k), v>:

    W_out <- W_out + eta h^T v,   W_in <- W_in + eta k^T ((v W_out^T) * gelu'(k W_in)),   h = gelu(k W_in)

with the gradient taken at the weights in force at the last multiple of `inner_batch` writes since the segment's cut
(inner_batch = 1: at the current weights). Inside such a batch the steps add up, so that reads are chunk-parallel.
Source: arXiv 2602.24281, section 4 (DLA); the chunked inner gradient as in arXiv 2407.04620.
State: 2 * H * K * F floats (and as many again for the batch's base weights), F = expansion * K.
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
    """expansion: F / K. inner_batch: writes that share one base for their gradients. rate: largest step eta."""

    expansion: int = 4
    inner_batch: int = 16
    rate: float = 0.5


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
        if not isinstance(options.rate, int | float) or isinstance(options.rate, bool) or not 0 < options.rate < math.inf:
            raise ConfigError(f"memory_options rate={options.rate!r} must be a number above 0")

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
                if i == 0:
                    at_in, at_out = torch.where(midway, base_in, w_in), torch.where(midway, base_out, w_out)
                else:
                    at_in, at_out = w_in, w_out
                hidden, slope = gelu_and_slope(k @ at_in)
                push = eta[:, s, :, i] * (v @ at_out.transpose(-1, -2)) * slope
                pull = eta[:, s, :, i] * v
                for kept, x in zip(before, (w_in, w_out, push, hidden, pull), strict=True):
                    kept.append(x)
                w_in = w_in + k.transpose(-1, -2) @ push
                w_out = w_out + hidden.transpose(-1, -2) @ pull
                if filled is None:
                    base_in, base_out = at_in, at_out
                else:
                    wrote = filled[:, s, i]
                    base_in, base_out = torch.where(wrote, at_in, base_in), torch.where(wrote, at_out, base_out)
            ends.append((w_in, w_out, base_in, base_out))
        stacked = [torch.stack(x, 2).unflatten(2, (pieces, n)).transpose(1, 2) for x in before]
        was_in, was_out, push, hidden, pull = stacked
        readers = ChunkRead(key, push, None, was_in), ChunkRead(hidden, pull, None, was_out)
        return DeepWritten(readers, DeepState(*(torch.stack(x, 1) for x in zip(*ends, strict=True))))
