"""cache="blocks": exact attention to sinks, chosen blocks and near tokens (see `siltstone.cache.blocks` for the law)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import rope
from ..ops.eager import eagerly
from ..ops.upcast import Placed
from ..schedule.blocks import BlockSchedule, Law
from ..schedule.context import Context
from ..schedule.packed import RowPositions
from ..schedule.window import Ring
from ..state.tree import Store
from . import blocks_step
from .blocks_state import BlocksState
from .context import StepContext
from .heads import Heads
from .linear import linear
from .short_conv import ShortConv

STEPS = 1 << 12  # masses are compared in steps of 1 / STEPS, so that rounding seldom decides; ties go to the latest block
STANDS_OUT = 2.5  # weight of the norms of `begin`
SCORES = 1 << 24  # scores of sub-blocks that are computed at a time


class BlockAttention(Placed):
    """softmax(q k^T / sqrt(K)) v over sinks, chosen blocks and near tokens. x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        options = cfg.members.cache.options
        self.cfg = cfg
        self.law = Law(
            window=cfg.window, sinks=cfg.sinks, block=cfg.segment, most=cfg.top_k, queries=options.router_queries,
            every=options.route_every, part=cfg.subblock,
        )  # fmt: skip
        self.conv = ShortConv(cfg)
        self.window = Heads(cfg)
        self.out = linear(cfg.heads * cfg.val_dim, cfg.d_model, cfg.out_bias)

    def init(self, batch: int) -> BlocksState:
        """A state that has read nothing."""
        cfg, law, like = self.cfg, self.law, self.like
        key, value = (like.new_zeros(batch, 0, cfg.key_heads, width) for width in (cfg.key_dim, cfg.val_dim))
        recent = like.new_zeros(batch, law.queries, cfg.heads, cfg.key_dim)
        chosen = torch.zeros(batch, cfg.key_heads, law.most, dtype=torch.long, device=like.device)
        return BlocksState(Store.empty((key, value), (1, 1)), Store.empty((key,), (1,)), recent, chosen, self.conv.init(batch))

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

    def renew(self, state: BlocksState, positions: RowPositions, active: np.ndarray) -> BlocksState:
        """Rooms for the next token of the active rows, and the choice of those whose group begins with it."""
        return blocks_step.renewed(self, blocks_step.reserved(self.law, state, active), positions, active)

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
        cfg, packed = self.cfg, context.packed
        plan: BlockSchedule = context.made(self.law, lambda: BlockSchedule(packed, self.law, x.device))
        x, conv = self.conv(x, state.conv, packed)
        asked, v = self.window.project(x)
        q, k = asked.split([cfg.heads, cfg.key_heads], 2)
        cache = state.cache.append((k, v), packed.length)
        keys, values = (k, v) if not state.cache.width else cache.leaves
        means = self._means(state.means, keys, packed.positions.position, packed.length)
        ring = Ring(packed, self.law.queries, x.device)
        both = ring.extend(state.recent, q.detach())
        picked, chosen = self._picked(both, means, state.chosen, plan)
        out = self._attended(q, keys, values, picked, plan)
        after = BlocksState(cache, means, ring.keep(both), chosen, conv)
        return self.out(out.flatten(2)), after

    def _means(self, means: Store, keys: Tensor, position: np.ndarray, length: np.ndarray) -> Store:
        """With the routing keys of the sub-blocks that the call completes."""
        law = self.law
        added = law.parts(position + length) - means.count
        new = int(added.max(initial=0))
        if not new:
            return means.append((keys[:, :0].detach(),), added)
        token = law.sinks + (means.count[:, None] + np.arange(new)) * law.part
        token = (token[..., None] + np.arange(law.part)).reshape(len(token), -1).clip(0, keys.shape[1] - 1)
        token = token + np.arange(len(token))[:, None] * keys.shape[1]
        with torch.no_grad():
            found = keys.detach().flatten(0, 1)[torch.from_numpy(token).to(keys.device)]
            return means.append((found.unflatten(1, (new, law.part)).mean(2),), added)

    @torch.no_grad()
    def _picked(self, both: Tensor, means: Store, before: Tensor, plan: BlockSchedule) -> tuple[Tensor | None, Tensor]:
        """The chosen blocks [R or 1, n, J, k] of each group (None: there are none), and those of each run's last group."""
        law, runs = self.law, len(both)
        if not plan.far:
            return None, before
        k = plan.far // law.block
        if not plan.chooses:
            picked = torch.arange(k, device=both.device).expand(1, plan.groups, self.cfg.key_heads, -1)
            last = torch.arange(law.most, device=both.device).expand_as(before)
            held = plan.host(np.broadcast_to(np.take_along_axis(plan.chosen, plan.last[: len(plan.chosen), None], 1), (runs, 1)))
            every = plan.host((plan.packed.length > 0)[:, None, None])
            return picked, torch.where(every, last.where(last < held[..., None], 0), before)
        askers = plan.askers.expand(runs, -1, -1)
        offset = torch.arange(runs, device=both.device)[:, None, None] * both.shape[1]
        query = both.flatten(0, 1)[askers + offset]  # [R, n, queries, H, K]
        summaries = means.views()[0]
        sealed = plan.host(plan.sealed).expand(runs, -1)
        step = max(1, SCORES // max(1, runs * law.queries * self.cfg.heads * summaries.shape[1]))
        made = plan.host(law.sealed(plan.first[..., None] + np.arange(-law.queries, 0))).expand(runs, -1, -1)
        apart = zip(query.split(step, 1), sealed.split(step, 1), made.split(step, 1), strict=True)
        found = [self.best(q, summaries, s, m) for q, s, m in apart]
        picked = torch.cat(found, 1)[..., :k]
        if plan.lead.any():  # a group that began before the call keeps its choice
            inside = plan.host(plan.lead > 0)[:, None, None, None]
            first = torch.where(inside, before[:, None, :, :k], picked[:, :1])
            picked = torch.cat([first, picked[:, 1:]], 1)
        last = picked[torch.arange(runs, device=both.device), plan.host(plan.last)]
        last = torch.cat([last, torch.zeros_like(before[..., k:])], -1)
        return picked, torch.where(plan.host((plan.packed.length > 0)[:, None, None]), last, before)

    def best(self, query: Tensor, summaries: Tensor, sealed: Tensor, made: Tensor) -> Tensor:
        """The blocks with the most mass: query [R, n, q, H, K], summaries [R, M, J, K], sealed [R, n] -> [R, n, J, most].

        In order of time; places without a block are 0.
        """
        law, heads = self.law, self.cfg.key_heads
        parts = law.block // law.part
        count = summaries.shape[1] // parts
        query = query.unflatten(3, (heads, -1)).permute(0, 3, 1, 2, 4, 5)  # [R, J, n, q, h, K]
        shape = query.shape
        key = summaries[:, : count * parts].permute(0, 2, 3, 1)  # [R, J, K, M]
        scores = (query.flatten(2, 4) @ key.to(query.dtype)).unflatten(2, shape[2:5]) * self.cfg.scale
        block = torch.arange(count, device=query.device)
        there = block < sealed[:, None, :, None]  # [R, 1, n, N]
        hidden = ~(block < made[..., None]).repeat_interleave(parts, -1)[:, None, :, :, None]  # [R, 1, n, q, 1, M]
        share = scores.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
        mass = share.unflatten(-1, (count, parts)).sum((3, 4, 6))
        rank = (mass * STEPS).round().to(torch.int64) * count + block  # [R, J, n, N]
        index = rank.masked_fill(~there, -1).topk(min(law.most, count), -1).indices
        index = torch.where(index < sealed[:, None, :, None], index, count).sort(-1).values
        index = torch.where(index < count, index, 0).transpose(1, 2)
        return torch.nn.functional.pad(index, (0, law.most - index.shape[-1]))

    def _attended(self, q: Tensor, keys: Tensor, values: Tensor, picked: Tensor | None, plan: BlockSchedule) -> Tensor:
        """q [R, T, H, K] (not rotated) -> [R, T, H, V]."""
        cfg, law, runs = self.cfg, self.law, len(q)
        query = _taken(q, plan.queries)
        near = [_taken(x, plan.tokens.clamp(max=x.shape[1] - 1)) for x in (keys, values)]  # [R, n, near, J, ...]
        far = [] if picked is None else [_blocks(x, picked, law.block, law.sinks) for x in (keys, values)]
        sinks = [x[:, None, : law.sinks].expand(-1, plan.groups, -1, -1, -1) for x in (keys, values)]
        if law.sinks and keys.shape[1] < law.sinks:
            sinks = [torch.cat([x, x[:, :, :1].expand(-1, -1, law.sinks - x.shape[2], -1, -1)], 2) for x in sinks]
        if cfg.position == "rope":
            here, there = plan.places
            query = rope.rotate(query, rope.turned(here, cfg.key_dim, q.dtype, cfg.base))
            near[0] = rope.rotate(near[0], rope.turned(there, cfg.key_dim, keys.dtype, cfg.base))
            turn = rope.turned(torch.arange(law.sinks + plan.far, device=q.device), cfg.key_dim, keys.dtype, cfg.base)
            sinks[0] = rope.rotate(sinks[0], tuple(x[: law.sinks] for x in turn))  # type: ignore[arg-type]
            far = far and [rope.rotate(far[0], tuple(x[law.sinks :] for x in turn)), far[1]]  # type: ignore[arg-type]
        parts = [x for x in (sinks if law.sinks else [], far, near) if x]
        key, value = (torch.cat([x[i].to(q.dtype) for x in parts], 2).flatten(0, 1).transpose(1, 2) for i in range(2))
        query = query.unflatten(1, (plan.groups, law.every)).flatten(0, 1).transpose(1, 2)
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


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """x [R, N, ...] at index [R or 1, ...] of the second axis."""
    if len(index) == 1:
        return x.index_select(1, index.flatten()).unflatten(1, index.shape[1:])
    offset = torch.arange(len(x), device=x.device).view(-1, *(1,) * (index.dim() - 1)) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, index.shape)


def _blocks(x: Tensor, picked: Tensor, block: int, sinks: int) -> Tensor:
    """The tokens of blocks: x [R, N, J, W], picked [R or 1, n, J, k] -> [R, n, k * block, J, W]."""
    runs, length, heads = x.shape[:3]
    token = sinks + picked.transpose(2, 3)[:, :, :, None] * block + torch.arange(block, device=x.device)[:, None]
    token = token.flatten(2, 3).clamp(max=length - 1)  # [R or 1, n, k * block, J]
    row = torch.arange(runs, device=x.device).view(-1, 1, 1, 1) * length
    index = (row + token) * heads + torch.arange(heads, device=x.device)
    return x.flatten(0, 2).index_select(0, index.flatten()).unflatten(0, index.shape)
