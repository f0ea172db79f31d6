"""A training run in memory: model, optimiser, places of the rows in the text and their states; step, save, restore."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..models.lm import LM
from ..models.stream_state import LMState
from ..ops.upcast import upcast
from ..text import cut_table
from . import copying, recompute, resume
from .aids import Aids
from .corpus import Corpus
from .precision import autocast
from .recipe import Recipe
from .rows import Piece, Rows

LENGTHS = (256, 1024, 1024, 1024)  # of rows of repeated strings alone
COPIES, FAR = 0.25, 0.6  # weights beside the text: of rows of repeated strings, and of those from beyond the window


class Trainer:
    """Truncated backpropagation through time, over rows that carry their states from step to step.

    With segments="content", tokens that contain the model's `cut_at` are cut, as in a session. The end of a document is not cut:
    the next document starts from an empty state, or from the state of another text.

    grown       number of first layers whose learning rate is `recipe.grown_lr * recipe.lr`
    step        number of optimiser steps so far
    tokens      number of tokens trained on
    state       state of the rows after the last step
    parameters  parameters of the model, by name
    """

    def __init__(self, model: LM, corpus: Corpus, recipe: Recipe, grown: int = 0) -> None:
        self.model, self.recipe = model, recipe
        self.rows, self._text = Rows(corpus, recipe), corpus.ids
        self.state: LMState | None = None
        self.step = self.tokens = 0
        self.device = next(model.parameters()).device
        self.aids = Aids(model, recipe, recipe.seed)
        self._cuts = cut_table(model.cfg, corpus.tokenizer)
        self._autocast = autocast(recipe.precision, self.device)
        self.parameters = dict(model.named_parameters())
        new = tuple(f"blocks.{i}." for i in range(grown))
        groups = []
        for ours, factor in ((False, 1.0), (True, recipe.grown_lr)):
            some = {n: p for n, p in self.parameters.items() if n.startswith(new) == ours} if new else self.parameters
            matrices = [p for n, p in some.items() if p.dim() >= 2 and not n.endswith("norm")]  # a norm may be [heads, V]
            others = [p for n, p in some.items() if p.dim() < 2 or n.endswith("norm")]
            groups.append({"params": matrices, "weight_decay": recipe.decay, "factor": factor})
            groups.append({"params": others, "weight_decay": 0.0, "factor": factor})
            if not new:
                break
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)

    def advance(self, fraction: float) -> dict[str, float]:
        """Makes one step, with the learning rate at `fraction` of the run; returns its figures.

        Raises ConfigError if loss or gradient norm is nan or infinite; the weights are then those of the step before.
        """
        if self.step < self.recipe.copying:
            return self._updated(self._copying(), fraction) | {"bits": 0.0, "bytes": 0.0}
        piece = self.rows.next()
        ids = torch.from_numpy(piece.ids).to(self.device)
        targets = torch.from_numpy(piece.targets).to(self.device)
        reset = torch.from_numpy(piece.reset).to(self.device) if piece.reset.any() else None
        with self.aids.step(self.step, fraction, self.recipe.part):  # a backward pass may compute again
            with self._autocast():
                cut = None if self._cuts is None else self._cuts[torch.from_numpy(piece.ids)]
                loss, state = self._loss(ids, targets, self._begin(piece), reset, cut)
            more = self._beside()
            if self.recipe.routing_loss:
                more.append(self.aids.loss())
            figures = self._updated(sum(more, loss), fraction)
        self.state = state.detach()
        nats = float(loss.detach()) if more else figures["loss"]
        self.tokens += ids.numel()
        return figures | {"loss": nats, "bits": nats * ids.numel() / math.log(2), "bytes": piece.bytes}

    def _beside(self) -> list[Tensor]:
        """The weighted costs of rows of repeated strings beside the text."""
        recipe, found = self.recipe, []
        if recipe.copies:
            found.append(COPIES * self._copying())
        if recipe.far:
            by, window = np.random.default_rng([recipe.seed, 4, self.step]), self.model.cfg.widest_window
            length = max(32, window) * copying.LENGTHS[self.step % len(copying.LENGTHS)]
            made = copying.far_rows(self._text, self.model.cfg.vocab_size, max(1, recipe.far // length), length, window, by)
            with self._autocast():
                found.append(FAR * copying.cost(self.model, *made, self.device))
        return found

    def _copying(self) -> Tensor:
        """The cost of rows of repeated strings: some beside the text, or as many tokens as the text has."""
        recipe, by = self.recipe, np.random.default_rng([self.recipe.seed, 3, self.step])
        count, length = recipe.copies, recipe.length
        if self.step < recipe.copying:
            length = min(int(by.choice(LENGTHS)), recipe.length)
            count = max(1, recipe.batch * recipe.length // length)
        with self._autocast():
            made = copying.rows(self._text, self.model.cfg.vocab_size, count, length, by)
            return copying.cost(self.model, *made, self.device)

    def _updated(self, loss: Tensor, fraction: float) -> dict[str, float]:
        """One step of the optimiser; its figures."""
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        nats, rate = float(loss.detach()), self.recipe.rate(fraction)
        if not math.isfinite(nats) or not math.isfinite(float(norm)):
            self.optimizer.zero_grad()
            raise ConfigError(f"the loss is not a number at step {self.step + 1}; resume with a lower lr than {self.recipe.lr}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {"loss": nats, "lr": rate, "grad_norm": float(norm)}

    def _loss(
        self, ids: Tensor, targets: Tensor, state: LMState, reset: Tensor | None, cut: Tensor | None
    ) -> tuple[Tensor, LMState]:
        """Mean loss of a token in nats, and the state after the tokens."""
        if self.recipe.recompute == "segment":
            hidden, state = recompute.features(self.model, ids, state, reset, cut=cut)
            return recompute.cross_entropy(self.model, hidden, targets), state
        logits, state = self.model(ids, state, reset=reset, cut=cut)
        return F.cross_entropy(upcast(logits).flatten(0, 1), targets.flatten()), state

    def _begin(self, piece: Piece) -> LMState:
        """The state from which each row of this piece continues, copied (so that its layout is the same after a restore)."""
        fresh = np.flatnonzero(piece.fresh)
        index, pool = piece.source.copy(), [] if self.state is None else [self.state]
        if len(fresh):
            phase = (piece.draws[fresh] * self.model.cfg.phases).astype(np.int64)
            index[fresh] = np.arange(len(fresh)) + (len(index) if pool else 0)
            pool.append(self.model.init_state(len(fresh), phase=phase))
        return LMState.cat(pool).select(index.tolist())

    def save(self, path: Path, **about: Any) -> None:
        """Writes everything that the next step depends on, and `about`, atomically to one safetensors file with a checksum.

        Raises CheckpointError if it could not be restored (for example moments that are not finite), StorageError.
        """
        resume.save(self, path, about)

    def restore(self, path: Path) -> dict[str, Any]:
        """Restores the trainer to the state that `save` wrote; returns `about` and the other figures.

        Raises CheckpointError if the file is damaged, newer than this version, or of another model; then nothing has changed.
        """
        return resume.restore(self, path)
