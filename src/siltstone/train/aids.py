"""Aids of training: they change how a model reads in a step of training, and leave it as it was.

    dense first      cache="sparse" reads every checkpoint, then fewer and fewer, so that routing learns before it must choose
    routing loss     -log sum over the chosen checkpoints of g_n / sum over all of g_n; g_n: the dense gate, mean over heads
    window dropout   memory layers leave out their window, so that what it could answer must come from the memory
    random windows   memory layers see only the last w tokens of their window, w drawn anew: each scale is as likely. What is
                     written, and when, stays the same: tokens between w and the window's end are seen again once they are written

Source of the first: arXiv 2512.02556 (dense warm-up of a sparse choice); the loss makes the dense gates those of the choice. Of
the last: arXiv 2509.24552 (windows of two widths, one drawn for each batch, so that a recurrent layer beside them learns).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.base import CachePolicy, ReadWeights, Router, RouterScores
from ..cache.exact import Exact
from ..layers.mixer import Mixer
from ..models.lm import LM
from ..ops.routing import in_steps, top
from .recipe import Recipe

SHUFFLE, WIDTHS = 17, 18  # of the numbers that choose the steps without a window, and the widths of windows


def read_at(recipe: Recipe, fraction: float, top_k: int, most: int) -> int:
    """Checkpoints that a sparse layer reads at a share of the run: all of `most` first, at last `top_k`, between them fewer by
    equal factors."""
    if fraction < recipe.dense or most <= top_k:
        return max(most, top_k)
    if fraction >= 2 * recipe.dense:
        return top_k
    done = fraction / recipe.dense - 1
    return round(most ** (1 - done) * top_k**done)


def width_at(recipe: Recipe, seed: int, number: int, window: int) -> int | None:
    """Tokens that a window of `window` tokens sees in step `number`, from 1 to `window - 1`; None: all of it."""
    if not recipe.random_windows or window == 1:
        return None
    drawn, scale = np.random.default_rng([seed, WIDTHS, number]).random(2)
    return int(window**scale) if drawn < recipe.random_windows else None


class Aids:
    """The aids of a recipe for a model."""

    def __init__(self, model: LM, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        mixers = [x for x in model.modules() if isinstance(x, Mixer)]
        self.sparse = [x.cache for x in mixers if x.cache.sparse] if recipe.dense or recipe.routing_loss else []
        self.windows = [x for x in mixers if x.window is not None and not isinstance(x.cache, Exact)]
        self.narrowed = [x.window for x in mixers if x.window is not None]
        self._left_out: list[Tensor] = []

    @contextmanager
    def step(self, number: int, fraction: float, tokens: int) -> Iterator[None]:
        """Around step `number`, at a share of the run. tokens: of the longest text, with what was read of it before."""
        recipe, self._left_out = self.recipe, []
        drawn = np.random.default_rng([self.seed, SHUFFLE, number]).random() if recipe.window_dropout else 1.0
        try:
            for policy in self.sparse:
                policy.reads = read_at(recipe, fraction, policy.cfg.top_k, tokens // policy.cfg.segment)
                if recipe.routing_loss:
                    policy.mix = self._noting(policy)  # type: ignore[method-assign]
            for mixer in self.windows:
                mixer.blind = drawn < recipe.window_dropout
            for window in self.narrowed:
                window.narrow = width_at(recipe, self.seed, number, window.cfg.window)
            yield
        finally:
            for policy in self.sparse:
                policy.reads = policy.cfg.top_k
                vars(policy).pop("mix", None)
            for mixer in self.windows:
                mixer.blind = False
            for window in self.narrowed:
                window.narrow = None

    def loss(self) -> Tensor:
        """What the last step adds to its loss with `routing_loss`: a number."""
        left_out = torch.stack(self._left_out).mean() if self._left_out else torch.zeros((), dtype=torch.float32, device="cpu")
        return self.recipe.routing_loss * left_out

    def _noting(self, policy: CachePolicy) -> Any:
        mix = policy.mix

        def noted(router: Router, asked: RouterScores) -> ReadWeights:
            if asked.scores.shape[-1] > policy.cfg.top_k:
                self._left_out.append(left_out(router, asked, policy.cfg.top_k))
            return mix(router, asked)

        return noted


def left_out(router: Router, asked: RouterScores, top_k: int) -> Tensor:
    """-log of the share of the `top_k` best checkpoints in all gates: mean over queries, those included that fill the last chunk
    of a call."""
    gates = router.gates(asked)[1].float().mean(2)  # [R, Q, N]
    index = top(in_steps(asked.scores), asked.hidden, top_k, asked.newest_last)
    share = gates.gather(-1, index).sum(-1) / gates.sum(-1).clamp(min=1e-9)
    return -share.clamp(min=1e-9).log().mean() if asked.hidden is None else _seen(share, gates)


def _seen(share: Tensor, gates: Tensor) -> Tensor:
    """The mean over queries that see a checkpoint."""
    seen = gates.sum(-1) > 0
    return -(share.clamp(min=1e-9).log() * seen).sum() / seen.sum().clamp(min=1)
