"""Activation recomputation for long rows: a row is computed in stretches, and each stretch again in the backward pass.

    hidden, state = features(model, ids, state, tokens=256)

equals `model.features(ids, state)`, with the same gradients. Between forward and backward pass only the states between the
stretches and the activations of one stretch are in memory. Source: arXiv 1604.06174, section 4.

A state is a value, so that a recomputed stretch has the same inputs. Sealed checkpoints (`Store`) are passed from stretch to
stretch as the entries that each stretch added: a copy of the whole bank for each stretch would take memory quadratic in the
row's length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.given import is_whole
from ..errors import InputError
from ..models.lm import LM
from ..models.stream_state import LMState
from ..ops.upcast import upcast
from ..state.tree import Store


def features(
    model: LM,
    ids: Tensor,
    state: LMState | None = None,
    reset: Tensor | None = None,
    tokens: int | None = None,
    mask: Tensor | None = None,
    cut: Tensor | None = None,
) -> tuple[Tensor, LMState]:
    """`model.features` in calls of `tokens` tokens (default: a segment); each call is computed again in the backward pass.

    The arguments ids, state, reset, mask and cut and the result are those of `model.features`. Costs one more forward pass.
    Raises InputError for `tokens` below 1, and for rounded checkpoints (`checkpoint_dtype`): they pass no gradient to a later
    call, and each stretch is a call.
    """
    if model.cfg.rounded:
        raise InputError(
            "rounded checkpoints pass no gradient from one call to the next, so that recompute would change the gradients; "
            "set checkpoint_dtype='float32' to train with recompute"
        )
    model.check_ids(ids)
    parts = _stretches(model, ids.shape[-1], tokens)
    if not parts or any(flag is not None and flag.shape != ids.shape for flag in (mask, reset, cut)):
        return model.features(ids, state, mask, reset, cut=cut)  # raises InputError for shapes that do not fit
    now = _taken_apart(model.init_state(len(ids)) if state is None else state)
    out = []
    for part in parts:
        here = [None if flag is None else flag[:, part] for flag in (mask, reset, cut)]
        hidden, now = checkpoint(_stretch, model, ids[:, part], now, *here, use_reentrant=False, preserve_rng_state=False)
        out.append(hidden)
    return torch.cat(out, 1), _put_together(now)


def cross_entropy(model: LM, hidden: Tensor, targets: Tensor, tokens: int | None = None) -> Tensor:
    """Mean of -log p(target) in nats, from hidden [B, T, D] and targets [B, T]; keeps the logits of one stretch at a time."""
    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for part in _stretches(model, hidden.shape[1], tokens):
        total = total + checkpoint(_cost, model, hidden[:, part], targets[:, part], use_reentrant=False, preserve_rng_state=False)
    return total / targets.numel()


def _cost(model: LM, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(upcast(model.head(hidden)).flatten(0, 1), targets.flatten(), reduction="sum")


def _stretches(model: LM, length: int, tokens: int | None) -> list[slice]:
    size = model.cfg.layer.segment if tokens is None else tokens
    if not is_whole(size) or size < 1:
        raise InputError(f"tokens={tokens!r} must be a whole number of at least 1, or None for the tokens of a segment")
    return [slice(at, min(at + size, length)) for at in range(0, length, size)]


def _stretch(
    model: LM, ids: Tensor, before: LMState, mask: Tensor | None, reset: Tensor | None, cut: Tensor | None
) -> tuple[Tensor, LMState]:
    """One call; the states before and after have `Grown` in place of `Store`."""
    hidden, after = model.features(ids, _put_together(before), mask, reset, cut=cut)
    return hidden, _taken_apart(after, None if reset is not None and bool(reset.any()) else before)


@dataclass
class Grown:
    """A store before the first stretch, and the entries [B, ..., n, ...] that each stretch added: `added[b]` of them in row b."""

    base: Store
    more: tuple[tuple[tuple[Tensor, ...], np.ndarray], ...] = ()

    @property
    def count(self) -> np.ndarray:
        """Entries of each row."""
        return self.base.count + sum((added for _, added in self.more), np.zeros_like(self.base.count))

    def with_new(self, after: Store) -> Grown:
        """Adds the new entries of `after`, a later version of this store."""
        had = self.count
        added = after.count - had
        if not added.any():
            return self
        index = np.clip(had[:, None] + np.arange(added.max()), 0, max(after.width - 1, 0))
        return Grown(self.base, (*self.more, (_rows(after.views(), after.axes, index), added)))

    def whole(self) -> Store:
        """The complete store."""
        if not self.more:
            return self.base
        axes, width = self.base.axes, self.base.width
        laid = tuple(torch.cat(x, a) for a, *x in zip(axes, self.base.views(), *(new for new, _ in self.more), strict=True))
        starts = np.cumsum([width, *(new[0].shape[axes[0]] for new, _ in self.more)])
        count = self.count
        index = np.zeros((len(count), int(count.max())), np.int64)
        for b, row in enumerate(index):
            found = [np.arange(self.base.count[b])]
            found += [at + np.arange(added[b]) for at, (_, added) in zip(starts, self.more, strict=False)]
            row[: count[b]] = np.concatenate(found)
        return Store(_rows(laid, axes, index), axes, count)


def _rows(leaves: tuple[Tensor, ...], axes: tuple[int, ...], index: np.ndarray) -> tuple[Tensor, ...]:
    """Entries index[b] of each row, copied."""
    return tuple(
        torch.stack([row.index_select(a - 1, i) for row, i in zip(x, torch.from_numpy(index).to(x.device), strict=True)])
        for x, a in zip(leaves, axes, strict=True)
    )


def _taken_apart(state: LMState, before: LMState | None = None) -> LMState:
    """`state` with each store as a `Grown`: the entries of the earlier state `before`, and the new ones."""
    layers = []
    for i, layer in enumerate(state.layers):
        known: Iterator[Any] = iter(()) if before is None else (leaf for _, leaf in before.layers[i].leaves())

        def each(leaf: Any, known: Iterator[Any] = known) -> Any:
            old = next(known, None)
            if not isinstance(leaf, Store):
                return leaf
            return old.with_new(leaf) if isinstance(old, Grown) else Grown(leaf)

        layers.append(layer.map(each))
    return dataclasses.replace(state, layers=tuple(layers))


def _put_together(state: LMState) -> LMState:
    """The inverse of `_taken_apart`."""
    layers = tuple(x.map(lambda leaf: leaf.whole() if isinstance(leaf, Grown) else leaf) for x in state.layers)
    return dataclasses.replace(state, layers=layers)
