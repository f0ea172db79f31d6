"""cache="blocks": exact attention to blocks of earlier tokens, chosen for each head of keys; nothing is compressed.

Tokens that leave the window are pending; every `segment` of them are sealed as a block. The choice is renewed with each token
whose position (the tokens read before it) is divisible by `route_every`: after it entered the window, before it asks, among the
blocks sealed by then, by the queries of the tokens before it. A block sealed later is seen whole until the next renewal, as if
it were still pending: no token is hidden before it could be chosen.

`checkpoint_dtype` rounds what a block holds when it is first offered to a choice; until then its tokens are exact. With a budget
a renewal first drops blocks, then chooses among those that are left: the oldest go, or with evict="use" those with the least mass
a query, over the queries that were made when they were sealed and that took part in a choice. Blocks without such a query stay.
With `asking`, the choice is also renewed with every token from that position on, among the same blocks; nothing is offered or
dropped then.
With `exact`, and `asking`, the best `exact` blocks are then compared by their keys themselves, each a routing key.
With `votes`, and `asking`, blocks are compared by `votes` times their mass and the masses in all heads of the layers below.
With `coarse`, without `asking`, and more than `coarse_from` tokens in blocks, means of `coarse` keys first choose `candidates`
blocks alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .caches import kept
from .layer import Row
from .segments import kept as rounded
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
        self.dtype = cfg.get("checkpoint_dtype", "float32")
        self.asking = cfg.get("asking", math.inf)  # the position from which each token renews the choice
        self.offered = 0  # blocks that were sealed at the last renewal
        self.held: dict[int, list[KV]] = {}  # sealed blocks that are kept, as they are kept
        self.means: dict[int, list[list[Tensor]]] = {}  # their routing keys [J] [sub-blocks]
        self.coarse: dict[int, list[list[Tensor]]] = {}  # those that choose candidates
        self.used: dict[int, int] = {}  # mass of each in steps of 1/4096, over all heads and choices
        self.asked: dict[int, int] = {}  # the queries that gave it
        self.chosen: list[list[int]] = [[] for _ in range(self.J)]
        self.under: BlocksRow | None = None  # the next layer below with the same law
        self.votes: dict[int, int] = {}  # masses in all heads of this layer and those below, in steps, at the last renewal
        self.queries: list[tuple[Tensor, int]] = []  # the last queries, and the blocks that were sealed when they were made

    def offer(self) -> None:
        """All sealed blocks are offered to the choice; over budget some are dropped."""
        self.offered = len(self.sealed)
        most = self.cfg.get("max_checkpoints")
        while most is not None and len(self.held) > most:
            gone = min(self.held, key=self.worth)
            for table in (self.held, self.means, self.coarse, self.used, self.asked):
                del table[gone]

    def renew(self) -> None:
        """Choose the `top_k` blocks with the most mass from the last `router_queries` queries, compared as in `kept`."""
        options, blocks = self.cfg["cache_options"], sorted(b for b in self.held if b < self.offered)
        two = options.get("coarse", 0) and self.t < self.asking and len(blocks) * self.cfg["segment"] > options["coarse_from"]
        votes = dict.fromkeys(blocks, 0) | self.lower
        for j in range(self.J):
            some = blocks
            if two:
                some = self.best(j, some, self.coarse, options["candidates"])
            if options.get("exact", 0) and self.t >= self.asking:
                some = self.best(j, self.best(j, some, self.means, options["exact"]), self.keys, self.cfg["top_k"])
            self.chosen[j] = self.best(j, some, self.means, self.cfg["top_k"])
            for b, share in zip(blocks, self.total(j, blocks, self.means), strict=True):
                self.used[b] += round(4096 * float(share))
                votes[b] += round(4096 * float(share))
        self.votes = votes
        for b in blocks:
            self.asked[b] += sum(b < made for _, made in self.queries)

    @property
    def lower(self) -> dict[int, int]:
        """The masses of the blocks in all heads of the layers below, in steps, at this token."""
        return {} if self.under is None else self.under.votes

    @property
    def keys(self) -> dict[int, list[list[Tensor]]]:
        """The keys of the blocks themselves, as they are kept: [J] [tokens]."""
        return {b: [[k_JK[j] for k_JK, _ in block] for j in range(self.J)] for b, block in self.held.items()}

    def total(self, j: int, blocks: list[int], means: dict[int, list[list[Tensor]]]) -> list[float]:
        """The mass of each block from the last queries, over these blocks alone."""
        masses = [self.mass(q_HK, made, j, blocks, means) for q_HK, made in self.queries]
        return [sum(mass.get(b, 0.0) for mass in masses) for b in blocks]

    def best(self, j: int, blocks: list[int], means: dict[int, list[list[Tensor]]], most: int) -> list[int]:
        """Those with the most mass, in their order."""
        shares, weight = self.total(j, blocks, means), self.cfg["cache_options"].get("votes", 0)
        if weight and self.t >= self.asking:
            shares = [(weight * round(4096 * x) + self.lower.get(b, 0)) / 4096 for b, x in zip(blocks, shares, strict=True)]
        total = [torch.tensor(float(share), dtype=torch.float64) for share in shares]
        return [blocks[i] for i in kept(total, most)]

    def worth(self, number: int) -> tuple[float, int]:
        """Over budget, the block for which this is least goes."""
        if self.cfg.get("evict", "age") == "age":
            return 0.0, number
        return self.used[number] / self.asked[number] if self.asked[number] else math.inf, number

    def stored(self, x_JW: Tensor) -> Tensor:
        """Keys or values of a token as a block keeps them: with int8 a scale for each head."""
        return rounded((x_JW,), self.dtype)[0]

    def summaries(self, block: list[KV], size: int) -> list[list[Tensor]]:
        """Routing keys [J] [sub-blocks] of a block: means of `size` exact keys, in int8 if anything is rounded."""
        parts = [block[i : i + size] for i in range(0, len(block), size)]
        means = [[torch.stack([k_JK[j] for k_JK, _ in part]).mean(0).detach() for part in parts] for j in range(self.J)]
        return [[rounded((m,), "float32" if self.dtype == "float32" else "int8")[0] for m in each] for each in means]

    def keep(self, kv: KV) -> None:
        """The token becomes a sink or enters the window; what leaves the window is pending, and sealed when it fills a block."""
        if self.t < self.cfg["sinks"]:
            self.first.append(kv)
            return
        self.near.append(kv)
        if len(self.near) > self.cfg["window"]:
            self.left.append(self.near.pop(0))
        if len(self.left) == self.cfg["segment"]:
            number = len(self.sealed)
            self.held[number] = [(self.stored(k), self.stored(v)) for k, v in self.left]
            size = self.cfg["segment"] if self.cfg["router"] == "mean" else int(self.cfg["router"].split(":")[1])
            self.means[number] = self.summaries(self.left, size)
            self.coarse[number] = self.summaries(self.left, self.cfg["cache_options"].get("coarse") or size)
            self.used[number] = self.asked[number] = 0
            self.sealed.append(self.left)
            self.left = []

    @property
    def masses(self) -> list[list[list[float]]]:
        """What the last queries give the blocks that were sealed when they were made: [J] [blocks] each."""
        heads, held = range(self.J), sorted(self.held)
        return [[[*self.mass(q_HK, made, j, held, self.means).values()] for j in heads] for q_HK, made in self.queries]

    def mass(self, q_HK: Tensor, made: int, j: int, blocks: list[int], means: dict[int, list[list[Tensor]]]) -> dict[int, float]:
        """The attention of head j's queries to the routing keys of those of the blocks that were sealed by then."""
        seen = [(b, m) for b in blocks if b < made for m in means[b][j]]
        mass = {b: 0.0 for b, _ in seen}
        for q_K in q_HK[j * self.group : (j + 1) * self.group] if seen else []:
            share = torch.softmax(torch.stack([(q_K * m).sum() / math.sqrt(self.K) for _, m in seen]), dim=0)
            for (b, _), p in zip(seen, share.tolist(), strict=True):
                mass[b] += p
        return mass

    def buffer(self, j: int) -> list[KV]:
        """What head j of the keys shows, in order; the token itself is the last."""
        blocks = [self.held[b] for b in self.chosen[j]] + self.sealed[self.offered :]
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
            self.offer()
            self.renew()
        elif self.t >= self.asking:
            self.renew()
        asked = q_HK.detach(), len(self.sealed)
        self.queries = [*self.queries, asked][-self.cfg["cache_options"]["router_queries"] :]
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
