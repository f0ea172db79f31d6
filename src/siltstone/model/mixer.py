"""One memory-caching layer over runs: window, memory and bank, joined.

    y = W_o (window(x) + norm(read(M, bank)))      norm: RMSNorm over V, a weight for each head

The data flow is drawn in docs/how-it-works.md; the meaning, token by token, is spelled out in tests/oracle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import registry
from ..cache.bank import Bank, Sealing, View
from ..cache.base import CachePolicy, Mix, Router
from ..cache.logarithmic import Slots
from ..cache.read import chosen, dense, stage_sum
from ..compress.base import Compress
from ..config import LayerConfig
from ..memory.base import Memory, Written
from ..norm import rms
from ..state import State
from . import one
from .context import Context
from .plan import ENDLESS, Geometry, Plan
from .window import Ring, WindowAttention, WindowState

FEW = 16  # checkpoints up to which a dense read of all pieces at once beats one product a piece, though half of it is hidden


@dataclass
class LayerState(State):
    """window: rings; input [B, delay + rate - 1, D]: tokens still to be written; online: the memory; bank: sealed states;
    summary [B, U]: sum of the online segment's routing keys."""

    window: WindowState | None
    input: Tensor
    online: State
    bank: Bank | Slots | None
    summary: Tensor | None


class Mixer(nn.Module):
    """x [R, T, D] -> y [R, T, D], from runs' states to runs' states."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        rule = registry.member("memory", cfg.memory)
        options = registry.options(rule, cfg.memory_options)
        self.memory: Memory = rule(cfg, options)
        self.compress: Compress = registry.member("compress", cfg.compress)(cfg)
        self.cache: CachePolicy = registry.member("cache", cfg.cache)(cfg)
        self.router = Router(cfg) if self.cache.routed else None
        self.geo = Geometry(
            window=cfg.window,
            sinks=cfg.sinks,
            delay=cfg.delay,
            rate=cfg.rate,
            per_segment=cfg.segment // cfg.rate if self.cache.keeps else ENDLESS,
            align=rule.align(options),
            chunk=self.memory.chunk,
        )
        self.window = WindowAttention(cfg, self.geo) if cfg.window else None
        self.norm = nn.Parameter(torch.full((cfg.heads, cfg.val_dim), 0.1))
        self.out = nn.Linear(cfg.heads * cfg.val_dim, cfg.d_model, bias=False)

    def init(self, batch: int) -> LayerState:
        """Nothing seen."""
        cfg, like = self.cfg, self.out.weight
        routing = cfg.router_dim if self.router is not None else None
        bank: Bank | Slots | None = None
        if self.cache.keeps and cfg.segments == "constant":
            bank = Bank.empty(self.memory, batch, routing)
        elif self.cache.keeps:
            bank = Slots.empty(self.memory, batch, routing, cfg.start == "restart")
        online = self.memory.init(batch)
        summary = None if routing is None else self.memory.stages(online)[0].new_zeros(batch, routing)
        window = self.window.init(batch) if self.window is not None else None
        return LayerState(window, like.new_zeros(batch, self.geo.ring_input, cfg.d_model), online, bank, summary)

    def forward(self, x: Tensor, state: LayerState, context: Context) -> tuple[Tensor, LayerState]:
        """One call over runs."""
        seen: Tensor | None = None
        window = None
        if self.window is not None and state.window is not None:
            seen, window = self.window(x, state.window, context)
        after = LayerState(window, state.input, state.online, state.bank, state.summary)
        if one.possible(self, context):
            read = one.memory(self, x, state, after, context)
        else:
            plan, ring = context.plan(self.geo), Ring(context.runs, self.geo.ring_input, x.device)
            both = ring.extend(state.input, x)
            after.input = ring.keep(both)
            read = None if plan.idle else self._memory(x, both, state, after, plan)
        if read is not None:
            read = rms(read, self.norm, 1e-6)
            seen = read if seen is None else seen + read
        if seen is None:
            seen = x.new_zeros(*x.shape[:2], self.cfg.heads, self.cfg.val_dim)
        return self.out(seen.flatten(2)), after

    def _memory(self, x: Tensor, both: Tensor, state: LayerState, after: LayerState, plan: Plan) -> Tensor:
        """Write what leaves the window, seal, read: [R, T, H, V]. Fills in `after`."""
        runs, pieces = plan.shape
        block = plan.write_source(both).unflatten(1, (plan.most, self.geo.rate))
        c = self.compress(block)
        inputs = {k: plan.write_take(v).unflatten(1, (pieces, plan.slots)) for k, v in self.memory.inputs(c).items()}
        skip = plan.host(plan.skip)
        written = self._scan(inputs, state.online, plan, skip)
        ends = written.ends.map(lambda e: e.flatten(0, 1).unflatten(0, (runs, pieces)))
        last = plan.host(plan.pieces - 1 - plan.dropped)
        every = torch.arange(runs, device=x.device)
        after.online = ends.map(lambda e: e[every, last]) if pieces > 1 else ends.map(lambda e: e[:, 0])
        route: _Routing | None = None
        if self.router is not None and state.summary is not None:
            route = _Routing(self.router, x, c, state.summary, plan)
            after.summary = route.sums[every, last]
        z = plan.query_take(self.memory.queries(x)).unflatten(1, (pieces, -1)).transpose(2, 3)
        if state.bank is None:
            out = self._online(written, z)
        else:
            sums = None if route is None else route.sums
            call = Sealing(plan, self.memory, ends, state.online, sums, state.summary, inputs, plan.valid, skip, written)
            whole = isinstance(state.bank, Bank) and route is not None and self._at_once(state.bank.store.width + call.width)
            views, after.bank = state.bank.advance(call, whole)
            if whole and route is not None:
                out = self._picked(written, z, views[0], route)
            else:
                out = self._mixed(written, z, views, self._mixes(route, views))
        back, sees = plan.query_back
        tokens = back(out.transpose(2, 3).flatten(1, 2))
        return tokens if sees is None else tokens * sees[..., None, None].to(tokens.dtype)

    def _scan(self, inputs: dict[str, Tensor], online: State, plan: Plan, skip: Tensor) -> Written:
        """Pieces that restart are written side by side, pieces that carry on one after the other."""
        runs, pieces = plan.shape
        if self.cfg.start == "carry" or pieces == 1 and not plan.dropped:
            return self.memory.scan(inputs, plan.valid, skip, online)
        fresh = self.memory.init(1).map(lambda s: s.unsqueeze(1).expand(runs, pieces, *s.shape[1:]))
        if not plan.dropped:
            fresh = type(online)(
                **{n: torch.cat([getattr(online, n).unsqueeze(1), getattr(fresh, n)[:, 1:]], 1) for n in vars(online)}
            )
        aside = {k: v.flatten(0, 1).unsqueeze(1) for k, v in inputs.items()}
        valid = None if plan.valid is None else plan.valid.flatten(0, 1).unsqueeze(1)
        return self.memory.scan(aside, valid, skip.flatten(0, 1).unsqueeze(1), fresh.map(lambda s: s.flatten(0, 1)))

    def _read(self, written: Written, stage: int, z: Tensor) -> Tensor:
        """One stage of the online memory, whatever way its pieces were scanned: [R, S, H, Q, ...]."""
        groups = next(iter(written.ends.leaves()))[1].shape[:2]
        return written.read(stage, z.flatten(0, 1).unflatten(0, groups)).flatten(0, 1).unflatten(0, z.shape[:2])

    def _online(self, written: Written, z: Tensor) -> Tensor:
        out = z
        for i in range(self.memory.stages_count):
            out = self.memory.join(i, self._read(written, i, out), z)
        return out

    def _at_once(self, number: int) -> bool:
        """Whether all pieces of a call ask the bank together: always for a sparse policy; for a dense one where few
        checkpoints are read and no gradient is kept (what is hidden would be worked on three times then)."""
        return self.cache.sparse or number <= FEW and self.memory.read_is_linear and not torch.is_grad_enabled()

    def _picked(self, written: Written, z: Tensor, view: View, route: _Routing) -> Tensor:
        """One constant bank for all pieces, later checkpoints hidden from earlier ones: [R, S, H, Q, V]."""
        own = self._online(written, z)
        if not view.number or self.router is None or view.summary is None:
            return own
        pieces, queries = z.shape[1], z.shape[3]
        u = route.u.flatten(1, 2)
        scores = u @ view.summary.to(u.dtype).transpose(-1, -2)
        hidden = None if view.hidden is None else view.hidden.repeat_interleave(queries, 1)
        mix = self.cache.mix(self.router, scores, None if route.online is None else route.online.flatten(1, 2), hidden, True)
        rows = z.transpose(2, 3).flatten(1, 2)
        if mix.index is not None:
            found = chosen(self.memory, rows, view.stages, mix)
        else:
            assert mix.gates is not None
            found = dense(self.memory, rows.transpose(1, 2), view.stages, mix.gates).transpose(1, 2)
        online = None if mix.online is None else mix.online.unflatten(1, (pieces, queries)).transpose(2, 3).unsqueeze(-1)
        found = found.unflatten(1, (pieces, queries)).transpose(2, 3)
        return found + (own if online is None else online.to(own.dtype) * own)

    def _mixes(self, route: _Routing | None, views: list[View]) -> list[Mix | None]:
        """Gates of each piece; None where it sees no checkpoint."""
        if self.router is None or route is None:
            return [Mix() if v.number else None for v in views]
        mixes: list[Mix | None] = []
        for j, (view, u) in enumerate(zip(views, route.u.unbind(1), strict=True)):
            if not view.number or view.summary is None:
                mixes.append(None)
                continue
            scores = u @ view.summary.to(u.dtype).transpose(-1, -2)
            hidden = None if view.hidden is None else view.hidden.unsqueeze(1)
            online = None if route.online is None else route.online[:, j]
            mixes.append(self.cache.mix(self.router, scores, online, hidden, view.newest_last))
        return mixes

    def _mixed(self, written: Written, z: Tensor, views: list[View], mixes: list[Mix | None]) -> Tensor:
        """Online memory and checkpoints under their gates: [R, S, H, Q, V]."""
        blend = self.cache.blends and not self.memory.read_is_linear
        if not blend:
            own, asked = self._online(written, z).unbind(1), z.unbind(1)
            parts = [
                o if m is None else _gate(m.online, o) + self.cached(q, v, m)
                for o, q, v, m in zip(own, asked, views, mixes, strict=True)
            ]
            return torch.stack(parts, 1)
        out = z
        for i in range(self.memory.stages_count):
            own, asked = self._read(written, i, out).unbind(1), out.unbind(1)
            parts = [
                o if m is None or m.gates is None else _gate(m.online, o) + stage_sum(q, v.stages[i], m.gates)
                for o, q, v, m in zip(own, asked, views, mixes, strict=True)
            ]
            out = self.memory.join(i, torch.stack(parts, 1), z)
        return out

    def cached(self, z: Tensor, view: View, mix: Mix) -> Tensor:
        """Checkpoints' part of one piece: [R, H, Q, V]."""
        if mix.index is not None:
            return chosen(self.memory, z.transpose(1, 2), view.stages, mix).transpose(1, 2)
        if mix.gates is not None:
            return dense(self.memory, z, view.stages, mix.gates)
        shown = None if view.hidden is None else (~view.hidden).to(view.stages[0].dtype)
        if self.memory.read_is_linear:
            weights = view.stages[0] if shown is None else view.stages[0] * shown[:, None, :, None, None]
            return z @ weights.sum(2).to(z.dtype)
        ones = z.new_ones(1) if shown is None else shown[:, None, None]
        return dense(self.memory, z, view.stages, ones.expand(z.shape[0], z.shape[2], z.shape[1], view.number))


class _Routing:
    """Routing queries u [R, S, Q, U], scores `online` [R, S, Q] (softmax gates only) and key sums [R, S, U] of a call."""

    def __init__(self, router: Router, x: Tensor, c: Tensor, before: Tensor, plan: Plan):
        runs, pieces = plan.shape
        self.u = plan.query_take(router.queries(x)).unflatten(1, (pieces, -1))
        keys = plan.write_take(router.keys(c)).unflatten(1, (pieces, plan.slots)).to(before.dtype)
        if plan.valid is not None:
            keys = keys * plan.valid.unsqueeze(-1)
        first = before.new_zeros(runs, pieces, before.shape[-1])
        if not plan.dropped:
            first = torch.cat([before.unsqueeze(1), first[:, 1:]], 1)
        self.online: Tensor | None = None
        if router.softmax:
            running = keys.cumsum(2) + first.unsqueeze(2)
            mean = running / plan.held.unsqueeze(-1)
            self.online = (self.u.unflatten(2, (plan.slots, -1)) * mean.unsqueeze(3).to(self.u.dtype)).sum(-1).flatten(2)
            self.sums = running[:, :, -1]
        else:
            self.sums = keys.sum(2) + first


def _gate(gate: Tensor | None, out: Tensor) -> Tensor:
    """gate [R, Q, H] or None on out [R, H, Q, V]."""
    return out if gate is None else gate.transpose(1, 2).unsqueeze(-1).to(out.dtype) * out
