"""What an update rule has: `init`, `write` (one compressed token), and `read`; a state is a tuple of tensors.

`leaves(state)` is what a read needs, each with the heads first: what soups blend and checkpoints keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .window import Config, Weights, sizes

State = tuple[Tensor, ...]


def l2(z: Tensor) -> Tensor:
    """z / |z|, with z = 0 left at 0."""
    return z * torch.rsqrt((z * z).sum(-1, keepdim=True) + 1e-6)


def rms(z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """z / sqrt(mean z^2 + eps) * weight."""
    return z * torch.rsqrt((z * z).mean(-1, keepdim=True) + eps) * weight


class Matrix:
    """Linear attention: S [H, K, V] <- S + k v^T, read o = q S."""

    def __init__(self, cfg: Config, w: Weights):
        self.cfg, self.w = cfg, w
        self.H, self.K, self.V = sizes(cfg)

    def init(self) -> State:
        return (self.w["memory.write.weight"].new_zeros(self.H, self.K, self.V),)

    def cut(self, state: State) -> State:
        """A new segment goes on from this state: carried on, or inside the span of a logarithmic checkpoint."""
        return state

    def query(self, x_D: Tensor) -> Tensor:
        return l2((self.w["memory.query.weight"] @ x_D).view(self.H, self.K))

    def key_value(self, c_D: Tensor) -> tuple[Tensor, Tensor]:
        kv = self.w["memory.write.weight"] @ c_D
        return l2(kv[: self.H * self.K].view(self.H, self.K)), kv[self.H * self.K :].view(self.H, self.V)

    def gates(self, c_D: Tensor) -> Tensor:
        return self.w["memory.gates.weight"] @ c_D + self.w["memory.gates.bias"]

    def write(self, state: State, c_D: Tensor) -> State:
        k, v = self.key_value(c_D)
        return (state[0] + torch.einsum("hk,hv->hkv", k, v),)

    def leaves(self, state: State) -> State:
        return state

    def settled(self, sums: State) -> State:
        return sums

    def read(self, leaves: State, x_D: Tensor) -> Tensor:
        return self.ask(leaves, self.query(x_D))

    def ask(self, leaves: State, q_HK: Tensor) -> Tensor:
        return torch.einsum("hk,hkv->hv", q_HK, leaves[0])

    def beta(self, c_D: Tensor) -> Tensor:
        """How strongly each head writes, [H, 1]."""
        return torch.ones(self.H, 1, dtype=c_D.dtype)

    def surprise(self, state: State, c_D: Tensor, weigh: bool = False) -> float:
        """|v - M(k)|^2 over all heads, M the memory before the write; weigh: with each head's error times its beta."""
        k, v = self.key_value(c_D)
        error = v - self.ask(self.leaves(state), k)
        return float((self.beta(c_D) * error if weigh else error).square().sum().detach())
