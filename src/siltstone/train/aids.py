"""Aids of training: they change how a model reads in a step of training, and leave it as it was.

    dense first      cache="sparse" reads every checkpoint, then fewer and fewer, so that routing learns before it must choose
    routing loss     -sum_q w_q sum_n t_qn log p_qn / sum_q w_q for queries q and checkpoints n: t is the share of n in the
                     energies |M_n(z_q)|^2, p = softmax_n of the gates' logits, and w_q = 1 - entropy(t_q) / log N, so that
                     queries count which read of few checkpoints. t and w have no gradient. Scores so learn to rank
                     checkpoints by what is read of them. In steps that read every checkpoint: those of "dense first", then
                     each second
    window dropout   memory layers leave out their window, so that what it could answer must come from the memory
    random windows   memory layers see only the last w tokens of their window, w drawn anew: each scale is as likely. What is
                     written, and when, stays the same: tokens between w and the window's end are seen again once they are written

Source of the first two: arXiv 2512.02556 (dense warm-up of a sparse choice, and an indexer that learns the distribution of dense
attention; a memory has no attention weights, hence the energies). Of the last: arXiv 2509.24552 (windows of two widths, one drawn
for each batch, so that a recurrent layer beside them learns).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..cache.exact import Exact
from ..errors import ConfigError
from ..layers.mixer import Mixer
from ..models.lm import LM
from .recipe import Recipe

TEACHING = 2  # of so many steps after "dense first" one reads every checkpoint, if there is a routing loss
TINY = 1e-6
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
        sparse = [x for x in mixers if x.cache.sparse]
        if recipe.routing_loss and not all(x.cfg.segments == "constant" and not x.cfg.bounded for x in sparse):
            raise ConfigError("routing_loss needs segments='constant' without a budget; leave it out")
        if recipe.routing_loss and not all(x.memory.read_is_linear for x in sparse):
            raise ConfigError(
                "routing_loss needs a memory that is read by one matrix; leave it out, or take memory='gated_delta'"
            )
        self.sparse = [x.cache for x in sparse] if recipe.dense or recipe.routing_loss else []
        self.windows = [x for x in mixers if x.window is not None and not isinstance(x.cache, Exact)]
        self.narrowed = [x.window for x in mixers if x.window is not None]
        self._costs: list[Tensor] = []

    @contextmanager
    def step(self, number: int, fraction: float, tokens: int) -> Iterator[None]:
        """Around step `number`, at a share of the run. tokens: of the longest text, with what was read of it before."""
        recipe, self._costs = self.recipe, []
        teaches = bool(recipe.routing_loss) and (fraction < recipe.dense or number % TEACHING == 0)
        drawn = np.random.default_rng([self.seed, SHUFFLE, number]).random() if recipe.window_dropout else 1.0
        try:
            for policy in self.sparse:
                most = tokens // policy.cfg.segment
                policy.reads = max(most, policy.cfg.top_k) if teaches else read_at(recipe, fraction, policy.cfg.top_k, most)
                if teaches:
                    policy.observer = self._observe_softmax if policy.cfg.gate == "softmax" else self._observe
            for mixer in self.windows:
                mixer.blind = drawn < recipe.window_dropout
            for window in self.narrowed:
                window.narrow = width_at(recipe, self.seed, number, window.cfg.window)
            yield
        finally:
            for policy in self.sparse:
                policy.reads, policy.observer = policy.cfg.top_k, None
            for mixer in self.windows:
                mixer.blind = False
            for window in self.narrowed:
                window.narrow = None

    def loss(self) -> Tensor:
        """What the last step adds to its loss with `routing_loss`: a number."""
        costs = torch.stack(self._costs).mean() if self._costs else torch.zeros((), dtype=torch.float32, device="cpu")
        return self.recipe.routing_loss * costs

    def _observe(self, z: Tensor, matrices: Tensor, gates: Tensor) -> None:
        self._costs.append(routing_cost(z, matrices, gates, torch.logit(gates.float(), TINY)))

    def _observe_softmax(self, z: Tensor, matrices: Tensor, gates: Tensor) -> None:
        self._costs.append(routing_cost(z, matrices, gates, gates.float().clamp(min=TINY).log()))


def routing_cost(z: Tensor, matrices: Tensor, gates: Tensor, logits: Tensor) -> Tensor:
    """The routing loss of queries z [R, S, H, Q, in] that read all of the matrices [R, H, N, in, V] with gates [R, S, H, Q, N].

    logits are those of the gates, which are 0 where a checkpoint is not seen. Shares and logits are means over heads.
    """
    hidden = (gates > 0).sum(2) == 0  # [R, S, Q, N]
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        squares = matrices.float() @ matrices.float().transpose(-1, -2)  # [R, H, N, in, in]
        energy = torch.stack(
            [((q.float().unsqueeze(2) @ squares) * q.float().unsqueeze(2)).sum(-1).mean(1) for q in z.unbind(1)], 1
        )
        energy = energy.transpose(2, 3).clamp(min=0).masked_fill(hidden, 0.0)
        total = energy.sum(-1, keepdim=True)
        shares = energy / total.clamp(min=1e-30)
        most = (~hidden).sum(-1).clamp(min=2).log()
        weight = (1 + torch.xlogy(shares, shares).sum(-1) / most).clamp(min=0) * ((~hidden).sum(-1) > 1) * (total.squeeze(-1) > 0)
    found = logits.mean(2).masked_fill(hidden, -math.inf).masked_fill(hidden.all(-1, keepdim=True), 0.0).log_softmax(-1)
    return -((shares * found.masked_fill(hidden, 0.0)).sum(-1) * weight).sum() / weight.sum().clamp(min=TINY)
