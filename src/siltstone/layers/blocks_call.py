"""cache="blocks", one call: blocks are sealed, chosen for each group, and dropped over budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.transforms import at_work
from ..schedule.blocks import BlockSchedule
from ..state.tree import Store
from . import blocks_kept
from .blocks_choice import NOBODY, Asking, Groups, Held, Votes, choose, choose_and_count
from .blocks_kept import PLACES, Leaves, joined, some
from .blocks_state import BlocksState


class BlockCall:
    """The blocks of R runs during one call: those of the state, then those that the call seals.

    kept, means        stores after `seal`; without a budget
    entries, routing   all places: what is kept of them, and leaves of `means`, see `blocks_kept`
    number, held       see `blocks_choice`
    """

    def __init__(self, mixer: Any, state: BlocksState, plan: BlockSchedule):
        self.mixer, self.state, self.plan, self.cfg, self.law = mixer, state, plan, mixer.cfg, mixer.law
        self.kept, self.means = state.kept, state.means
        self.entries, self.routing = state.kept, state.means.views()
        self._read: Leaves | None = None  # keys and values with gradients, where what is kept has none
        self.held: Held | None = None

    def seal(self, keys: Tensor, values: Tensor) -> None:
        """Seal the blocks that are whole: keys and values [R, near + T, J, ...] of the tokens before and in the call."""
        cfg, law, plan, state = self.cfg, self.law, self.plan, self.state
        if plan.entering is not None:
            row = torch.arange(len(keys), device=keys.device)[:, None] * keys.shape[1]
            index = (plan.entering + row).flatten()
            blocks = [x.flatten(0, 1).index_select(0, index).unflatten(0, (len(x), -1, law.block)) for x in (keys, values)]
            kept, means = blocks_kept.stored(cfg, *blocks)
            if law.budget is None:
                added = plan.after - plan.before
                spans = law.spans(plan.before[:, None] + np.arange(kept[0].shape[1]))
                self.kept, self.means = state.kept.append(kept, added, spans), state.means.append(means, added)
            else:
                self.entries, self.routing = self._laid(joined(state.kept, kept)), joined(state.means, means)
            learning = at_work() or torch.is_grad_enabled() and any(x.requires_grad for x in blocks)
            if learning and cfg.checkpoint_dtype != "float32":
                self._read = self._with_gradients(blocks_kept.rounded(cfg, *blocks))
        if law.budget is None:
            self.entries, self.routing = self.kept, self.means.views()

    def _laid(self, leaves: Leaves) -> Store:
        """All places of leaves."""
        return Store(leaves, (1,) * len(leaves), np.full(len(leaves[0]), leaves[0].shape[1]))

    def _with_gradients(self, new: Leaves) -> Leaves:
        """Keys and values of all places as they are read, those of the call with gradients."""
        old = blocks_kept.read(self.state.kept.views(), new[0].dtype)
        if self.law.budget is not None:
            return tuple(torch.cat([x, y], 1) for x, y in zip(old, new, strict=True))
        return Store(old, (1, 1), self.state.kept.count).append(new, self.plan.after - self.plan.before).leaves

    def _number(self) -> Tensor:
        """int64 [R or 1, N], the block in each place; NOBODY: none."""
        plan, law, width = self.plan, self.law, self.state.kept.width
        if law.budget is None:
            return torch.arange(self.means.width, device=plan.device)[None]
        count, before = self.state.kept.count[:, None], plan.before[:, None]
        slot, new = np.arange(width)[None], before + np.arange(int((plan.after - plan.before).max(initial=0)))
        late = plan.host(np.where(new < plan.after[:, None], new, NOBODY))
        there = slot < count
        if self.state.tally is not None:
            early = self.state.tally.views()[0].masked_fill(~plan.host(there), NOBODY)
        else:
            early = plan.host(np.where(there, before - count + slot, NOBODY))
        return torch.cat([early, late], 1)

    @torch.no_grad()
    def choose(self, both: Tensor, votes: Votes) -> Tensor | None:
        """The places [R or 1, n, J, k] of each group's blocks; None: there are none. both: the queries before and in the call."""
        plan, law, runs, state = self.plan, self.law, len(both), self.state
        number = self.number = self._number()
        if state.tally is not None and number.shape[1]:
            self.held = self._before(number)
        if not plan.far:
            return None
        k = plan.far // law.block
        level = law.budget is None or bool((state.kept.count == state.kept.width).all())
        if not plan.chooses and self.held is None and level:
            return torch.arange(k, device=both.device).expand(1, plan.groups, self.cfg.key_heads, -1)
        askers = plan.askers.expand(runs, -1, -1)
        offset = torch.arange(runs, device=both.device)[:, None, None] * both.shape[1]
        query = both.flatten(0, 1)[askers + offset]  # [R, n, queries, H, K]
        made = plan.host(law.sealed(plan.begin[..., None] + np.arange(-law.queries, 0)))
        groups = Groups(plan.host(plan.sealed), made, number, plan.asking if plan.every < law.queries else None)
        if self.held is None:
            asking = Asking(plan.asks, self.entries, votes)
            picked = choose(self.cfg, law, query, self.routing, groups, law.two_stages(plan.sealed) & ~plan.asks, asking)[..., :k]
        else:
            since = plan.host(plan.before)[:, None], plan.begins
            found, self.held = choose_and_count(self.cfg, law, query, self.routing, groups, self.held, since)
            picked = found[..., :k]
        if plan.earlier.any():  # a group that began before the call keeps its choice
            picked = torch.where(plan.host(plan.earlier)[..., None, None], state.chosen[:, None, :, :k], picked)
        return picked

    def _before(self, number: Tensor) -> Held:
        """What is held when the call begins."""
        assert self.state.tally is not None
        _, used, asked = self.state.tally.views()
        more = number.shape[1] - used.shape[1]
        used, asked = (torch.nn.functional.pad(x, (0, more)) for x in (used, asked))
        return Held(number < self.plan.host(self.plan.before)[:, None], used, asked)

    def taken(self, picked: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [R, n, J, k * block, ...] of the chosen places."""
        held = self.entries if self._read is None else self._laid(self._read)
        return blocks_kept.taken(held, picked.expand(len(self.state.chosen), -1, -1, -1), dtype)

    def after(self, picked: Tensor | None, far: tuple[Tensor, Tensor] | None) -> BlocksState:
        """The state's blocks after the call; far: what each group attends to of them."""
        plan, law, state = self.plan, self.law, self.state
        chosen, held_far = state.chosen, state.far
        if picked is not None and far is not None:
            row = torch.arange(len(chosen), device=chosen.device)
            group = plan.host(plan.last)
            k = picked.shape[-1]
            many = plan.host(np.take_along_axis(np.broadcast_to(plan.chosen, (len(chosen), plan.groups)), plan.last[:, None], 1))
            last = picked.expand(len(chosen), -1, -1, -1)[row, group]
            last = torch.where(torch.arange(k, device=last.device) < many[..., None], last, 0)
            some_read = plan.host(plan.packed.length > 0)[:, None, None]
            chosen = torch.where(some_read, torch.nn.functional.pad(last, (0, law.most - k)), chosen)
            rest = (law.most - k) * law.block
            shown = [torch.nn.functional.pad(x[row, group], (0, 0, 0, rest)) for x in far]
            held_far = tuple(torch.where(some_read[..., None], x.to(y.dtype), y) for x, y in zip(shown, held_far, strict=True))
        if law.budget is None:
            return replace(state, kept=self.kept, means=self.means, chosen=chosen, far=held_far)
        if plan.entering is None and self.held is None:
            return replace(state, chosen=chosen, far=held_far)
        return self._dropped(replace(state, far=held_far), chosen)

    def _dropped(self, state: BlocksState, chosen: Tensor) -> BlocksState:
        """Without the blocks that are over budget."""
        plan, law = self.plan, self.law
        count = law.held(plan.after)
        if self.held is None:
            end = plan.host(plan.after)[:, None]
            alive = (self.number < end) & (self.number >= end - law.budget)
        else:
            alive = self.held.alive
        width = int(count.max(initial=0))
        places = (~alive).long().argsort(dim=1, stable=True)[:, :width]
        kept = Store(some(self.entries.views(), places, 1), state.kept.axes, count)
        means = Store(some(self.routing, places, PLACES), state.means.axes, count)
        tally = state.tally
        if tally is not None and self.held is not None:
            assert self.held.used is not None and self.held.asked is not None
            tally = Store(some((self.number, self.held.used, self.held.asked), places, 1), tally.axes, count)
        slot = (alive.cumsum(1) - 1).clamp(min=0)
        chosen = slot.gather(1, chosen.flatten(1)).view_as(chosen) if width else chosen
        return replace(state, kept=kept, means=means, tally=tally, chosen=chosen)
