"""cache="blocks": exact attention to sinks, chosen blocks and near tokens (see `siltstone.cache.blocks` for the law)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import rope
from ..ops.eager import eagerly
from ..ops.upcast import Placed
from ..schedule.blocks import BlockSchedule, Law
from ..schedule.context import Context
from ..schedule.packed import RowPositions
from ..schedule.window import Ring
from . import blocks_kept, blocks_step
from .blocks_call import BlockCall
from .blocks_choice import Votes
from .blocks_state import BlocksState
from .context import StepContext
from .heads import Heads
from .linear import linear
from .short_conv import ShortConv

Pair = tuple[Tensor, ...]  # keys and values
STANDS_OUT = 2.5  # weight of the norms of `begin`


class BlockAttention(Placed):
    """softmax(q k^T / sqrt(K)) v over sinks, chosen blocks and near tokens. x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        options = cfg.members.cache.options
        self.cfg = cfg
        self.law = Law(
            window=cfg.window, sinks=cfg.sinks, block=cfg.segment, most=cfg.top_k, queries=options.router_queries,
            every=options.route_every, part=cfg.subblock, budget=budget(cfg),
            coarse=options.coarse, coarse_from=options.coarse_from, candidates=options.candidates,
            exact=options.exact, votes=options.votes,
        )  # fmt: skip
        self.conv = ShortConv(cfg)
        self.window = Heads(cfg)
        self.out = linear(cfg.heads * cfg.val_dim, cfg.d_model, cfg.out_bias)

    def init(self, batch: int) -> BlocksState:
        """A state that has read nothing."""
        cfg, law, like = self.cfg, self.law, self.like
        widths = (cfg.key_dim, cfg.val_dim)
        sinks, near = (tuple(like.new_zeros(batch, n, cfg.key_heads, w) for w in widths) for n in (law.sinks, law.near))
        far = tuple(like.new_zeros(batch, cfg.key_heads, law.most * law.block, w) for w in widths)
        recent = like.new_zeros(batch, law.queries, cfg.heads, cfg.key_dim)
        chosen = torch.zeros(batch, cfg.key_heads, law.most, dtype=torch.long, device=like.device)
        kept, means, tally = blocks_kept.empty(cfg, batch, like)
        return BlocksState(
            kept=kept, means=means, tally=tally, sinks=sinks, near=near, far=far, recent=recent, chosen=chosen,
            conv=self.conv.init(batch),
        )  # fmt: skip

    def begin(self, inputs: Tensor | None = None) -> None:
        """Initial weights with which a token finds the tokens that followed earlier ones like it.

        Queries are A x, keys A (s * x~) with x~ = x + s * (the input before), s random signs: a key then contains A times the
        input before its token, which meets the query of an equal input; everything else is random. Needs `position="none"`,
        a short convolution, and norms on queries and keys, whose weights are set so that one place stands out of thousands.

        inputs   [N, D]: inputs that the layer will have, more than K; A then has the directions in which they differ most, each
                 scaled to equal variance. Without them A is random.
        """
        cfg, norm = self.cfg, self.window.q_norm
        if cfg.position != "none" or self.conv.taps is None or norm is None or cfg.qk_norm == "all" or cfg.key_dim > cfg.d_model:
            return
        assert self.window.k_norm is not None
        with torch.no_grad():
            weight = self.window.qkv.weight
            some = torch.randn(cfg.d_model, cfg.key_dim, dtype=torch.float32)
            some = torch.linalg.qr(some)[0].T.to(weight)
            sign = torch.where(torch.rand(cfg.d_model) < 0.5, 1.0, -1.0).to(weight)
            if inputs is not None:
                some = _differences(inputs, sign, cfg.key_dim)
            asks, keys = cfg.heads * cfg.key_dim, cfg.key_heads * cfg.key_dim
            weight[:asks] = some.repeat(cfg.heads, 1)
            weight[asks : asks + keys] = (some * sign).repeat(cfg.key_heads, 1)
            self.conv.taps.zero_()
            self.conv.taps[1] = sign
            norm.fill_(STANDS_OUT)
            self.window.k_norm.fill_(STANDS_OUT)

    def renew(self, state: BlocksState, positions: RowPositions, active: np.ndarray, shared: dict[Any, Any]) -> BlocksState:
        """The blocks of the active rows whose group begins with the next token: sealed, dropped over budget, and chosen.

        shared: what the layers leave for those above
        """
        return blocks_step.renewed(self, state, positions, active, shared.setdefault(self.law, Votes()))

    def step(self, x: Tensor, state: BlocksState, context: StepContext, empty: Tensor | None) -> tuple[Tensor, BlocksState]:
        """One token of each row, x [B, 1, D]."""
        return blocks_step.step(self, x, state, context)

    @eagerly
    def forward(
        self, x: Tensor, state: BlocksState, context: Context | StepContext, empty: Tensor | None = None
    ) -> tuple[Tensor, BlocksState]:
        """One call over runs; with a StepContext, `step`."""
        if isinstance(context, StepContext):
            return self.step(x, state, context, empty)
        cfg, law, packed = self.cfg, self.law, context.packed
        plan: BlockSchedule = context.made(self.law, lambda: BlockSchedule(packed, self.law, x.device))
        x, conv = self.conv(x, state.conv, packed)
        asked, v = self.window.project(x)
        q, k = asked.split([cfg.heads, cfg.key_heads], 2)
        ring = Ring(packed, law.queries, x.device)
        both = ring.extend(state.recent, q.detach())
        near = Ring(packed, law.near, x.device)
        keys, values = (near.extend(*old_new) for old_new in zip(state.near, (k, v), strict=True))
        call = BlockCall(self, state, plan)
        call.seal(keys, values)
        picked = call.choose(both, context.made(("votes", self.law), Votes))
        first = zip(state.sinks, (k, v), strict=True)
        sinks = tuple(_taken(torch.cat([old, new.to(old.dtype)], 1), plan.sinks) for old, new in first)
        far = None if picked is None else self.turned_far(*call.taken(picked, q.dtype))
        out = self._attended(q, sinks, far, (keys, values), plan)
        after = replace(
            call.after(picked, far), sinks=sinks, near=(near.keep(keys), near.keep(values)), recent=ring.keep(both), conv=conv
        )
        return self.out(out.flatten(2)), after

    def turned_far(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The keys [..., far, K] of chosen blocks rotated to their places in the buffer, and their values."""
        cfg = self.cfg
        if cfg.position != "rope":
            return keys, values
        places = self.law.sinks + torch.arange(keys.shape[-2], device=keys.device)
        turn = rope.turned(places, cfg.key_dim, keys.dtype, cfg.base)
        return rope.rotate(keys.unsqueeze(-2), turn).squeeze(-2), values

    def _attended(self, q: Tensor, sinks: Pair, far: Pair | None, both: Pair, plan: BlockSchedule) -> Tensor:
        """q [R, T, H, K] (not rotated), near tokens in `both` -> [R, T, H, V]."""
        cfg, law, runs = self.cfg, self.law, len(q)
        query = _taken(q, plan.queries)
        near = [_taken(x, plan.tokens).to(q.dtype) for x in both]  # [R, n, near, J, ...]
        first = [x.to(q.dtype) for x in sinks]
        if cfg.position == "rope":
            here, there = plan.places
            query = rope.rotate(query, rope.turned(here, cfg.key_dim, q.dtype, cfg.base))
            near[0] = rope.rotate(near[0], rope.turned(there, cfg.key_dim, q.dtype, cfg.base))
            if law.sinks:
                turn = rope.turned(torch.arange(law.sinks, device=q.device), cfg.key_dim, q.dtype, cfg.base)
                first[0] = rope.rotate(first[0], turn)
        parts = [[x.transpose(2, 3) for x in near]]
        if far is not None:
            parts.insert(0, [x.to(q.dtype) for x in far])
        if law.sinks:
            parts.insert(0, [x.transpose(1, 2)[:, None].expand(-1, plan.groups, -1, -1, -1) for x in first])
        key, value = (torch.cat([x[i] for x in parts], 3).flatten(0, 1) for i in range(2))
        query = query.unflatten(1, (plan.groups, plan.every)).flatten(0, 1).transpose(1, 2)
        mask = plan.mask.expand(runs, -1, -1, -1).flatten(0, 1).unsqueeze(1)
        out = self.window.attend(query, key, value, mask).transpose(1, 2).unflatten(0, (runs, plan.groups)).flatten(1, 2)
        return _taken(out, plan.slots)


def _differences(x: Tensor, sign: Tensor, width: int) -> Tensor:
    """[width, D]: the directions in which x [N, D] differs most, divided by the standard deviation along each.

    They are orthogonal to the mean m of x and to s * m: what all inputs share would make all keys alike.
    """
    mean = x.mean(0)
    shared = torch.linalg.qr(torch.stack([mean, sign * mean], 1))[0]
    apart = torch.eye(len(mean), dtype=x.dtype, device=x.device) - shared @ shared.T
    rest = (x - mean) @ apart
    variances, directions = torch.linalg.eigh(rest.T @ rest / len(rest))
    scale = variances[-width:].clamp(min=1e-6 * float(variances[-1])).sqrt()
    return (directions[:, -width:] / scale).T @ apart


def budget(cfg: LayerConfig) -> int | None:
    """The most blocks that a row holds; None: all. Raises ConfigError if `max_bytes` holds none."""
    if cfg.max_bytes is None:
        return cfg.max_checkpoints
    each = sum(blocks_kept.bytes_of_block(cfg))
    if cfg.max_bytes < each:
        raise ConfigError(f"max_bytes={cfg.max_bytes} holds no block of this layer; set max_bytes to at least {each}")
    return cfg.max_bytes // each


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """x [R, N, ...] at index [R or 1, ...] of the second axis."""
    if len(index) == 1:
        return x.index_select(1, index.flatten()).unflatten(1, index.shape[1:])
    offset = torch.arange(len(x), device=x.device).view(-1, *(1,) * (index.dim() - 1)) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, index.shape)
