"""One memory-caching layer over runs: combines window, memory and bank.

    y = W_o (window(x) + norm(read(M, bank)))      norm: RMSNorm over V, one weight per head

cache="gated" may add what it reads of exact pairs (`pairs.py`).
The data flow is drawn in docs/how-it-works.md; tests/oracle defines the meaning token by token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bank import kinds
from ..bank.sealing import Sealing
from ..cache.anchors import AnchorRouter, router
from ..cache.base import CachePolicy
from ..cache.exact import Exact
from ..compress.base import Compress
from ..config.layer import LayerConfig
from ..memory.base import Memory, ScanOutput
from ..ops.eager import eagerly
from ..ops.norm import rms
from ..ops.taking_part import taking_part
from ..ops.upcast import Placed
from ..schedule.call import ENDLESS, CallSchedule, Geometry
from ..schedule.context import Context
from ..schedule.step import StepSchedule
from ..schedule.window import Ring
from ..state.tree import State
from . import anchors, exact, reading, step
from .context import StepContext
from .linear import linear
from .pairs import Pairs, pair
from .parts import LayerState
from .routing import Lead, Routing
from .short_conv import ShortConv
from .window import ExtraKV, WindowAttention


class Mixer(Placed):
    """x [R, T, D] -> y [R, T, D], from runs' states to runs' states."""

    def __init__(self, cfg: LayerConfig, shares_routing: bool = False):
        super().__init__()
        self.cfg = cfg
        rule, options = cfg.members.memory.cls, cfg.members.memory.options
        self.memory: Memory = rule(cfg, options)
        self.memory.chunk = max(1, self.memory.chunk // cfg.group) * cfg.group
        self.compress: Compress = cfg.members.compress.cls(cfg, cfg.members.compress.options)
        self.cache: CachePolicy = cfg.members.cache.cls(cfg, cfg.members.cache.options)
        self.router = router(cfg, shares_routing) if self.cache.routed else None
        self.geo = Geometry(
            window=cfg.window,
            sinks=cfg.sinks,
            delay=cfg.delay,
            rate=cfg.every,
            per_segment=cfg.updates if self.cache.keeps else ENDLESS,
            align=max(1, rule.align(options) // cfg.group),
            chunk=max(1, self.memory.chunk // cfg.group),
            content=cfg.content and self.cache.keeps,
            lengths=tuple(kinds.kind(cfg).lengths(cfg.updates)) if self.cache.keeps else (),
        )
        self.conv = ShortConv(cfg)
        self.window = WindowAttention(cfg, self.geo) if cfg.window else None
        self.pairs = Pairs(cfg, self.cache.pairs) if self.cache.pairs else None
        self.blind = False  # the window's output is left out: only in training (`train.aids`)
        self.norm = nn.Parameter(torch.ones(cfg.heads, cfg.val_dim))
        self.out = linear(cfg.heads * cfg.val_dim, cfg.d_model, cfg.out_bias)
        routing = None if self.router is None else (self.router.blocks, cfg.router_dim)
        self.budget = kinds.budget(self.memory, routing)  # the largest number of checkpoints per row

    @property
    def _routing(self) -> tuple[int, int] | None:
        """(J, U) of the summaries that this layer keeps, or None."""
        return (self.router.blocks, self.cfg.router_dim) if self.router is not None and self.router.leads else None

    def init(self, batch: int) -> LayerState:
        """The state before the first token."""
        cfg, like = self.cfg, self.like
        routing = self._routing
        bank = kinds.bank(cfg).empty(self.memory, batch, routing) if self.cache.keeps else None
        online = self.memory.init(batch)
        factors, summary = self.memory.read_factors(online), None
        if routing is not None:
            own, summary = self.router, factors[0].new_zeros(batch, *routing)
            if isinstance(own, AnchorRouter):
                summary = own.read(self.memory, factors).detach()  # nothing reads it before the first write
        window = self.window.init(batch) if self.window is not None else None
        unwritten = like.new_zeros(batch, self.geo.ring_input, cfg.d_model)
        kept = self.cache.empty(batch, like) if isinstance(self.cache, Exact) else None
        kept = kept if self.pairs is None else self.pairs.empty(self.memory, batch, like)
        return LayerState(window, unwritten, online, bank, summary, self.conv.init(batch), kept)

    @eagerly
    def forward(
        self, x: Tensor, state: LayerState, context: Context | StepContext, empty: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """One call over runs; with a StepContext, `step`."""
        if isinstance(context, StepContext):
            return self.step(x, state, context, empty)
        x, conv = self.conv(x, state.conv, context.packed)
        seen: Tensor | None = None
        read: Tensor | None = None
        further: ExtraKV | None = None
        own: Tensor | None = None
        after = LayerState(None, state.input, state.online, state.bank, state.summary, conv, state.kept)
        schedule, ring = context.schedule(self.geo), Ring(context.packed, self.geo.ring_input, x.device)
        both = ring.extend(state.input, x)
        after.input = ring.keep(both)
        if not schedule.idle:
            read, further, own = self._memory(x, both, state, after, schedule, context)
        if self.window is not None and state.window is not None:
            seen, after.window = self.window(x, state.window, context, further)
        if read is not None:
            read = rms(read, self.norm, 1e-6)
            seen = read if seen is None or self.blind else seen + read
            seen = seen if own is None else seen + own
        if seen is None:
            seen = x.new_zeros(*x.shape[:2], self.cfg.heads, self.cfg.val_dim)
        return self.out(taking_part(seen, self._memory_parameters()).flatten(2)), after

    def seal(self, state: LayerState, by: StepSchedule) -> LayerState:
        """Rows that `by` names seal their online segment, before they take a token."""
        return step.seal(self, state, by)

    def empty(self, by: StepSchedule) -> np.ndarray | None:
        """bool [B, N, J], sub-blocks without a write; None: there are none, another layer routes, or the bank knows them."""
        if self.router is None or not self.router.leads or not kinds.bank(self.cfg).asks_empty:
            return None
        return self.router.empty(by.segments, by.width)

    def step(self, x: Tensor, state: LayerState, context: StepContext, empty: Tensor | None) -> tuple[Tensor, LayerState]:
        """One token of each row, x [B, 1, D] -> y [B, 1, D]."""
        x, conv = self.conv.step(x, state.conv, context)
        read, further, after = step.step(self, x, state, context, empty)
        window, seen = state.window, None
        if self.window is not None and window is not None:
            seen, window = self.window.step(x, window, context, further)
        if read is not None:
            read = rms(read, self.norm, 1e-6)
            seen = read if seen is None else seen + read
            if self.pairs is not None and after.kept is not None:
                seen = seen + self.pairs.now(self.memory.queries(x), after.kept)
        if seen is None:
            seen = x.new_zeros(*x.shape[:2], self.cfg.heads, self.cfg.val_dim)
        return self.out(seen.flatten(2)), replace(after, window=window, conv=conv)

    def _memory_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that only tokens use which see a memory or checkpoints."""
        yield self.norm
        for part in (self.memory, self.compress, self.cache, self.router, self.pairs):
            if part is not None:
                yield from part.parameters()

    def _memory(
        self, x: Tensor, both: Tensor, state: LayerState, after: LayerState, schedule: CallSchedule, context: Context
    ) -> tuple[Tensor, ExtraKV | None, Tensor | None]:
        """Write what leaves the window, seal, read: [R, T, H, V], extra keys and values for the window, and what is read of kept
        pairs [R, T, H, V]. Updates `after`."""
        runs, segment_chunks = schedule.shape
        group = self.cfg.group
        block = schedule.write_source(both).unflatten(1, (-1, self.cfg.rate))
        c = self._compressed(block, schedule, both)
        made, inputs = self.memory.inputs(c), {}
        for k, v in made.items():
            each = schedule.write_take(v.unflatten(1, (-1, group))).unflatten(1, (segment_chunks, schedule.slots))
            inputs[k] = each.flatten(2, 3)
        skip, valid = schedule.host(schedule.skip) * group, schedule.valid
        if valid is not None and group > 1:
            valid = valid.repeat_interleave(group, 2)
        written = self._scan(inputs, valid, state.online, schedule, skip)
        ends = written.ends.map(lambda e: e.flatten(0, 1).unflatten(0, (runs, segment_chunks)))
        last = schedule.host(schedule.segment_chunks - 1 - schedule.dropped)
        every = torch.arange(runs, device=x.device)
        after.online = ends.map(lambda e: e[every, last]) if segment_chunks > 1 else ends.map(lambda e: e[:, 0])
        route: Routing | None = None
        if self.router is not None:
            if state.summary is not None and not self.router.summed:
                context.lead = anchors.lead(self, x, written, ends, state.summary, schedule)
            elif state.summary is not None:
                keys = self.router.keys(c).unflatten(1, (-1, group)).mean(2)
                context.lead = Lead(self.router, self.router.queries(x), keys, state.summary)
            assert context.lead is not None
            route = Routing(context.lead, schedule, self.router.softmax)
            after.summary = None if state.summary is None else route.sums[every, last]
        queries = self.memory.queries(x)
        z = schedule.query_take(queries).unflatten(1, (segment_chunks, -1)).transpose(2, 3)
        if state.bank is None:
            out = reading.online(self, written, z)
        else:
            sums = None if route is None or state.summary is None else route.sums
            call = Sealing(
                schedule=schedule, memory=self.memory, router=self.router, ends=ends, sums=sums, before=state.online,
                sum_before=state.summary, inputs=inputs, valid=valid, skip=skip, written=written, budget=self.budget,
            )  # fmt: skip
            out, after.bank = reading.with_bank(self, written, z, state.bank, call, route)
        back, sees = schedule.query_back
        tokens = back(out.transpose(2, 3).flatten(1, 2))
        tokens = tokens if sees is None else tokens * sees[..., None, None].to(tokens.dtype)
        if state.kept is None:
            return tokens, None, None
        before = self._before(state.online, ends, schedule)
        surprises = exact.surprises(self.memory, inputs, written, before, self.pairs is not None)
        by = context.window(self.geo, x.dtype)
        if self.pairs is not None:
            plan = exact.plan(pair(self.memory, made), surprises, state.kept, schedule, by.block)
            after.kept = plan.after
            return tokens, None, self.pairs(queries, plan.key, plan.value, plan.seen)
        assert self.window is not None
        further, after.kept = exact.planned(self.window, state.kept, surprises, block, schedule, by)
        return tokens, further, None

    def _before(self, online: State, ends: State, schedule: CallSchedule) -> tuple[Tensor, ...]:
        """The read factors [R, S, ...] with which each segment chunk begins."""
        runs, segment_chunks = schedule.shape
        read, restart = self.memory.read_factors, self.cfg.start == "restart"
        first = read(online)
        if segment_chunks == 1 and not (restart and schedule.dropped):
            return tuple(x.unsqueeze(1) for x in first)
        if not restart:
            later = read(ends.map(lambda x: x[:, :-1]))
            return tuple(torch.cat([a.unsqueeze(1), b], 1) for a, b in zip(first, later, strict=True))
        fresh = tuple(x.expand(runs, *x.shape[1:]) for x in read(self.memory.init(1)))
        first = fresh if schedule.dropped else first
        return tuple(torch.stack([a, *[b] * (segment_chunks - 1)], 1) for a, b in zip(first, fresh, strict=True))

    def _compressed(self, block: Tensor, schedule: CallSchedule, both: Tensor) -> Tensor:
        """block [R, M, rate, D] -> [R, M, D]; compressors with `sees_window` also get the window's mean at each write."""
        if not self.compress.sees_window:
            return self.compress(block)
        means = F.avg_pool1d(both.transpose(1, 2), self.cfg.window, 1).transpose(1, 2)
        return self.compress(block, schedule.update_window(means).repeat_interleave(self.cfg.group, 1))

    def _scan(
        self, inputs: dict[str, Tensor], valid: Tensor | None, online: State, schedule: CallSchedule, skip: Tensor
    ) -> ScanOutput:
        """Segment chunks that restart are written in parallel, segment chunks that carry on one after the other."""
        runs, segment_chunks = schedule.shape
        if self.cfg.start == "carry" or segment_chunks == 1 and not schedule.dropped:
            return self.memory.scan(inputs, valid, skip, online)
        fresh = self.memory.init(1).map(lambda s: s.unsqueeze(1).expand(runs, segment_chunks, *s.shape[1:]))
        if not schedule.dropped:
            fresh = type(online)(
                **{n: torch.cat([getattr(online, n).unsqueeze(1), getattr(fresh, n)[:, 1:]], 1) for n in vars(online)}
            )
        aside = {k: v.flatten(0, 1).unsqueeze(1) for k, v in inputs.items()}
        there = None if valid is None else valid.flatten(0, 1).unsqueeze(1)
        return self.memory.scan(aside, there, skip.flatten(0, 1).unsqueeze(1), fresh.map(lambda s: s.flatten(0, 1)))
