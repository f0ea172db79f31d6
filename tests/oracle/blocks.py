"""cache="blocks": exact attention to blocks of earlier tokens, chosen for each head of keys; nothing is compressed.

Tokens that leave the window are pending; every `segment` of them are sealed as a block. The choice is renewed with each token
whose position (the tokens read before it) is divisible by `route_every`: after it entered the window, before it asks, among the
blocks sealed by then, by the queries of the tokens before it. A block sealed later is seen whole until the next renewal, as if
it were still pending: no token is hidden before it could be chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .caches import kept
from .layer import Row
from .window import Config, Weights, project, rotate, sizes

KV = tuple[Tensor, Tensor]  # key [J, K], not rotated, and value [J, V] of one token


class BlocksRow(Row):
    """The state of one row: no memory, and no token is ever forgotten."""

    def __init__(self, cfg: Config, w: Weights):
        super().__init__(cfg, w, kind="window")
        self.H, self.K, self.V = sizes(cfg)
        self.J = cfg.get("kv_heads") or self.H
        self.group = self.H // self.J  # heads of queries that share a head of keys
        self.first: list[KV] = []  # the sinks
        self.near: list[KV] = []  # the window
        self.left: list[KV] = []  # pending: they left the window and are not yet sealed
        self.sealed: list[list[KV]] = []  # the oldest first
        self.offered = 0  # blocks that were sealed at the last renewal
        self.chosen: list[list[int]] = [[] for _ in range(self.J)]
        self.masses: list[list[list[float]]] = []  # of the last queries: [J] [blocks sealed when the query was made]

    def renew(self) -> None:
        """Choose the `top_k` blocks with the most mass from the last `router_queries` queries, compared as in `kept`."""
        self.offered = len(self.sealed)
        for j in range(self.J):
            total = [sum(mass[j][b] for mass in self.masses if b < len(mass[j])) for b in range(self.offered)]
            self.chosen[j] = kept([torch.tensor(float(share), dtype=torch.float64) for share in total], self.cfg["top_k"])

    def keep(self, kv: KV) -> None:
        """The token becomes a sink or enters the window; what leaves the window is pending, and sealed when it fills a block."""
        if self.t < self.cfg["sinks"]:
            self.first.append(kv)
            return
        self.near.append(kv)
        if len(self.near) > self.cfg["window"]:
            self.left.append(self.near.pop(0))
        if len(self.left) == self.cfg["segment"]:
            self.sealed.append(self.left)
            self.left = []

    def mass(self, q_HK: Tensor) -> list[list[float]]:
        """The attention of each head's queries to the sub-block means of all blocks sealed by now, summed: [J] [blocks]."""
        size = self.cfg["segment"] if self.cfg["router"] == "mean" else int(self.cfg["router"].split(":")[1])
        masses = []
        for j in range(self.J):
            means, owner = [], []
            for b, block in enumerate(self.sealed):
                for i in range(0, len(block), size):
                    means.append(torch.stack([k_JK[j] for k_JK, _ in block[i : i + size]]).mean(0))
                    owner.append(b)
            mass = [0.0 for _ in self.sealed]
            for q_K in q_HK[j * self.group : (j + 1) * self.group] if means else []:
                share = torch.softmax(torch.stack([(q_K * m).sum() / math.sqrt(self.K) for m in means]), dim=0)
                for b, p in zip(owner, share.tolist(), strict=True):
                    mass[b] += p
            masses.append(mass)
        return masses

    def buffer(self, j: int) -> list[KV]:
        """What head j of the keys shows, in order; the token itself is the last."""
        blocks = [self.sealed[b] for b in self.chosen[j]] + self.sealed[self.offered :]
        return self.first + [kv for block in blocks for kv in block] + self.left + self.near

    def attended(self, q_HK: Tensor) -> Tensor:
        """softmax(<R(n - 1 - i) q, k_i> / sqrt(K)) v_i over the n tokens of the buffer -> [H, V]."""
        n, heads = len(self.buffer(0)), []
        turned = [rotate(q_HK, n - 1 - i, self.cfg) if self.cfg["position"] == "rope" else q_HK for i in range(n)]
        for h in range(self.H):
            j = h // self.group
            seen = self.buffer(j)
            logits = [(turned[i][h] * k_JK[j]).sum() / math.sqrt(self.K) for i, (k_JK, _) in enumerate(seen)]
            weights_N = torch.softmax(torch.stack(logits), dim=0)
            heads.append((weights_N[:, None] * torch.stack([v_JV[j] for _, v_JV in seen])).sum(0))
        return torch.stack(heads)

    def read(self, q_HK: Tensor, k_JK: Tensor, v_JV: Tensor) -> Tensor:
        """The next token, given as query, key and value -> [H, V]."""
        self.keep((k_JK, v_JV))
        if self.t % self.cfg["cache_options"]["route_every"] == 0:
            self.renew()
        self.masses = [*self.masses, self.mass(q_HK.detach())][-self.cfg["cache_options"]["router_queries"] :]
        self.t += 1
        return self.attended(q_HK)

    def step(self, x_D: Tensor, cut: bool = False) -> Tensor:
        """y [D] of the next token; cuts do not matter."""
        if self.cfg.get("short_conv", 0):
            x_D = self.convolved(x_D)
        heads_HV = self.read(*project(self.cfg, self.w, x_D))
        return self.w["out.weight"] @ heads_HV.reshape(-1) + self.w.get("out.bias", 0)


def run(cfg: Config, w: Weights, x_TD: Tensor) -> Tensor:
    """y [T, D] of one row life."""
    row = BlocksRow(cfg, w)
    outs = [row.step(x_D) for x_D in x_TD]
    return torch.stack(outs) if outs else x_TD.new_zeros(0, x_TD.shape[-1])
