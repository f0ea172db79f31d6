"""One training run in memory: model, optimiser, the rows' places in the text and their states; a step; save and restore."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError, ConfigError
from ..io import read_tensors, write_tensors
from ..memory.base import wide
from ..model.lm import LM
from ..model.stream_state import LMState
from . import recompute
from .corpus import Corpus
from .precision import autocast
from .recipe import Recipe
from .rows import Piece, Rows

VERSION = 1


class Trainer:
    """Truncated backpropagation through time, over rows that carry their states from step to step.

    step      optimiser steps made
    tokens    tokens trained on
    state     of the rows, after the last step
    """

    def __init__(self, model: LM, corpus: Corpus, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.rows = Rows(corpus, recipe)
        self.state: LMState | None = None
        self.step = self.tokens = 0
        self.device = next(model.parameters()).device
        self._autocast = autocast(recipe.precision, self.device)
        self._named = dict(model.named_parameters())
        matrices = [p for n, p in self._named.items() if p.dim() >= 2 and not n.endswith("norm")]  # a norm may be [heads, V]
        others = [p for n, p in self._named.items() if p.dim() < 2 or n.endswith("norm")]
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)

    def advance(self, fraction: float) -> dict[str, float]:
        """Makes one step, with the learning rate for `fraction` of the run; returns its figures.

        Raises ConfigError when the loss is no longer a number; the weights are then those of the step before.
        """
        piece = self.rows.next()
        ids = torch.from_numpy(piece.ids).to(self.device)
        targets = torch.from_numpy(piece.targets).to(self.device)
        reset = torch.from_numpy(piece.reset).to(self.device) if piece.reset.any() else None
        with self._autocast():
            loss, state = self._loss(ids, targets, self._begin(piece), reset)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self.recipe.clip)
        nats, rate = float(loss.detach()), self.recipe.rate(fraction)
        if not math.isfinite(nats) or not math.isfinite(float(norm)):
            self.optimizer.zero_grad()
            raise ConfigError(f"the loss is not a number at step {self.step + 1}; resume with a lower lr than {self.recipe.lr}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = state.detach()
        self.step += 1
        self.tokens += ids.numel()
        bits = nats * ids.numel() / math.log(2)
        return {"loss": nats, "bits": bits, "bytes": piece.bytes, "lr": rate, "grad_norm": float(norm)}

    def _loss(self, ids: Tensor, targets: Tensor, state: LMState, reset: Tensor | None) -> tuple[Tensor, LMState]:
        """Mean cost of a token, nats, and the rows' states after them."""
        if self.recipe.recompute == "segment":
            hidden, state = recompute.features(self.model, ids, state, reset)
            return recompute.cross_entropy(self.model, hidden, targets), state
        logits, state = self.model(ids, state, reset=reset)
        return F.cross_entropy(wide(logits).flatten(0, 1), targets.flatten()), state

    def _begin(self, piece: Piece) -> LMState:
        """The state that each row of this piece goes on from, in memory of its own (the same layout after a restore)."""
        fresh = np.flatnonzero(piece.fresh)
        index, pool = piece.source.copy(), [] if self.state is None else [self.state]
        if len(fresh):
            phase = (piece.draws[fresh] * self.model.cfg.phases).astype(np.int64)
            index[fresh] = np.arange(len(fresh)) + (len(index) if pool else 0)
            pool.append(self.model.init_state(len(fresh), phase=phase))
        return LMState.cat(pool).select(index.tolist())

    def save(self, path: Path, **about: Any) -> None:
        """Writes everything that the next step depends on, and `about`, as one safetensors file, atomically."""
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        for name, p in self._named.items():
            tensors |= {f"optimizer.{name}.{key}": x for key, x in self.optimizer.state.get(p, {}).items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        meta = {"step": self.step, "tokens": self.tokens, "cursor": self.rows.cursor(), "state": None, **about}
        if self.state is not None:
            tensors |= {f"state.{name}": x for name, x in self.state.tensors().items()}
            meta["state"] = self.state.meta()
        write_tensors(path, tensors, {"format": "siltstone-training", "version": str(VERSION), "meta": json.dumps(meta)})

    def restore(self, path: Path) -> dict[str, Any]:
        """Stands where `save` was called; returns what it was given as `about`, and the rest of the figures.

        Raises CheckpointError when the file is damaged, newer than this version, or of another model.
        """
        try:
            tensors, header = read_tensors(path)
            if int(header["version"]) > VERSION:
                raise ValueError(f"format {header['version']} is newer than this version's {VERSION}; update Siltstone")
            meta = json.loads(header["meta"])
            self.model.load_state_dict(_under("model.", tensors))
            for name, p in self._named.items():
                moments = _under(f"optimizer.{name}.", tensors)
                self.optimizer.state[p] = {key: x.to(self.device) for key, x in moments.items()}
            self.rows.seek(meta["cursor"])
            self.step, self.tokens = meta["step"], meta["tokens"]
            if meta["state"] is not None:
                found = {name: x.to(self.device) for name, x in _under("state.", tensors).items()}
                self.state = self.model.load_state(found, meta["state"])
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"the training checkpoint {path} cannot be used: {error}") from error
        return meta


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
