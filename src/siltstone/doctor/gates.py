"""Statistics of the gates of routed caches: distribution, selectivity, and which checkpoints are read.

entropy   H = -sum_n p_n log2 p_n bits, p the normalised gates of one token and head; at most log2 of their number
          (with softmax gates the online memory is one of them)
age       distance from the last token that a checkpoint covers to the token that reads it, in segments
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..cache.base import ReadWeights, RouterScores
from ..inference.receipt import sealed
from ..layers.mixer import Mixer
from ..models.lm import LM

SHUT, OPEN = 0.02, 0.98
EDGES = [0.0, SHUT, *(i / 10 for i in range(1, 10)), OPEN, 1.0]  # of the histogram
EXAMPLES = 4  # rows in a batch


@dataclass(frozen=True)
class Call:
    """One call of a caching policy: its input scores and its output weights."""

    asked: RouterScores
    mix: ReadWeights


@contextmanager
def watched(model: LM, look: Callable[[int, Call], None]) -> Iterator[None]:
    """Inside the block, `look(layer, call)` is called for every call of the model's caching policies; nothing else changes."""
    caches = [(i, block.mix.cache) for i, block in enumerate(model.blocks) if isinstance(block.mix, Mixer)]
    before = [(cache, vars(cache).get("mix")) for _, cache in caches]

    def wrap(layer: int, cache: Any) -> None:
        original = cache.mix
        names = inspect.signature(original)

        def mix(*args: Any, **keys: Any) -> ReadWeights:
            made = original(*args, **keys)
            look(layer, Call(names.bind(*args, **keys).arguments["asked"], made))
            return made

        cache.mix = mix

    try:
        for layer, cache in caches:
            wrap(layer, cache)
        yield
    finally:
        for cache, mix in before:
            vars(cache).pop("mix", None)
            if mix is not None:
                cache.mix = mix


@dataclass
class Layer:
    """Collected values of the tokens of a memory layer, by head."""

    mixer: Mixer
    online: list[Tensor] = field(default_factory=list)  # [R, H] for each token
    gates: list[Tensor] = field(default_factory=list)  # [R, H, n] for the checkpoints that a token may read
    picked: list[Tensor | None] = field(default_factory=list)  # bool [R, n], the selected ones of a sparse cache
    ages: list[list[float]] = field(default_factory=list)  # [n]

    def add(self, call: Call, seen: int) -> None:
        """Adds one token of each row, after `seen` tokens. Calls in which it is padded (at some block borders) are skipped."""
        if call.mix.gates is None or call.mix.gates.shape[1] != 1:
            return
        cfg, asked, number = self.mixer.cfg, call.asked, call.asked.scores.shape[-1]
        hidden = torch.zeros(number, dtype=torch.bool) if asked.hidden is None else asked.hidden.flatten(0, -2)[0].cpu()
        order = [n for n in range(number) if not hidden[n]]
        order = order if asked.newest_last else order[::-1]  # oldest first
        assert asked.age is not None
        age = asked.age().flatten(0, -2)[0].tolist()
        ends = [cfg.sinks + (sealed(cfg, seen) + 1 - age[n]) * cfg.segment for n in order]
        gates, picked = call.mix.gates[:, 0].float().cpu(), None
        if call.mix.index is not None:
            index = call.mix.index[:, 0].cpu()  # [R, k]
            picked = torch.zeros(len(index), number, dtype=torch.bool).scatter_(1, index, True)
            gates = gates.new_zeros(*gates.shape[:2], number).scatter_(2, index.unsqueeze(1).expand_as(gates), gates)
            picked = picked[:, order]
        self.gates.append(gates[..., order])
        self.picked.append(picked)
        self.ages.append([(seen - end) / cfg.segment for end in ends])
        if call.mix.online is not None:
            self.online.append(call.mix.online[:, 0].float().cpu())

    def summary(self, number: int) -> dict[str, Any]:
        """The figures of layer `number`, ready for JSON."""
        cfg = self.mixer.cfg
        out: dict[str, Any] = {"layer": number, "cache": cfg.cache, "gate": cfg.gate, "tokens": len(self.gates)}
        if not self.gates:
            return out
        softmax, heads = bool(self.online), self.gates[0].shape[1]
        weights = [torch.cat([g, o.unsqueeze(-1)], -1) for g, o in zip(self.gates, self.online, strict=True)] if softmax else []
        weights = weights or self.gates
        live = [w[p.unsqueeze(1).expand_as(w)] if p is not None else w for w, p in zip(self.gates, self.picked, strict=True)]
        by_head = torch.cat([self._live(g, p) for g, p in zip(self.gates, self.picked, strict=True)], 1)  # [H, all]
        largest = torch.cat([w.amax(-1).T for w in weights], 1) if softmax else by_head  # [H, all]
        shut, wide_open = (by_head < SHUT).float().mean(1), (largest > OPEN).float().mean(1)
        entropy, limit = self._entropy(weights)
        edges = torch.tensor(EDGES)
        where = (torch.bucketize(torch.cat([x.flatten() for x in live]), edges, right=True) - 1).clamp(0, len(EDGES) - 2)
        return out | {
            "shut": float(shut.mean()),
            "open": float(wide_open.mean()),
            "saturated": float(wide_open.mean() if softmax else (shut + wide_open).mean()),
            "saturated_by_head": (wide_open if softmax else shut + wide_open).tolist(),
            "spread_by_head": by_head.std(1, correction=0).tolist(),
            "online": float(torch.cat(self.online).mean()) if softmax else 1.0,
            "online_by_head": torch.cat(self.online).mean(0).tolist() if softmax else [1.0] * heads,
            "entropy": None if limit is None else float(entropy.mean()),
            "entropy_by_head": None if limit is None else entropy.tolist(),
            "entropy_limit": limit,
            "histogram": (torch.bincount(where, minlength=len(EDGES) - 1) / len(where)).tolist(),
            "use_by_age": self._use(),
        }

    @staticmethod
    def _live(gates: Tensor, picked: Tensor | None) -> Tensor:
        """[H, ...] gates of the checkpoints that are read."""
        flat = gates.transpose(0, 1)
        return flat.flatten(1) if picked is None else flat[:, picked]

    def _entropy(self, weights: list[Tensor]) -> tuple[Tensor, float | None]:
        """Mean entropy of each head in bits, and the mean of its limit, over tokens with at least two checkpoints; (zeros, None)
        if there are none."""
        found, limits = [], []
        for w, picked in zip(weights, self.picked, strict=True):
            count = w.shape[-1] if picked is None else int(picked[0].sum()) + w.shape[-1] - picked.shape[-1]
            if count < 2:
                continue
            p = w / w.sum(-1, keepdim=True).clamp(min=1e-30)
            found.append(-(p * p.clamp(min=1e-30).log2()).sum(-1).mean(0))
            limits.append(math.log2(count))
        if not found:
            return torch.zeros(weights[0].shape[1]), None
        return torch.stack(found).mean(0), sum(limits) / len(limits)

    def _use(self) -> list[dict[str, Any]]:
        """Mean gate of each head by age of the checkpoint; with a sparse cache, also the share of tokens that select it."""
        found: dict[int, list[tuple[Tensor, Tensor | None]]] = {}
        for gates, picked, ages in zip(self.gates, self.picked, self.ages, strict=True):
            for n, age in enumerate(ages):
                bucket = 0 if age < 1 else 1 + math.floor(math.log2(age))
                found.setdefault(bucket, []).append((gates[..., n], None if picked is None else picked[:, n]))
        out = []
        for bucket, each in sorted(found.items()):
            first, last = (0, 1) if not bucket else (2 ** (bucket - 1), 2**bucket)
            gate = torch.cat([g for g, _ in each]).mean(0)
            chosen = [p.float() for _, p in each if p is not None]
            out.append(
                {
                    "from": first,
                    "to": last,
                    "gate": float(gate.mean()),
                    "gate_by_head": gate.tolist(),
                    "picked": float(torch.cat(chosen).mean()) if chosen else None,
                }
            )
        return out


@torch.no_grad()
def survey(model: LM, ids: Tensor, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Statistics of the gates of every memory layer with a routed cache; rows ids [R, T] are read one token a call."""
    layers = {
        i: Layer(block.mix)
        for i, block in enumerate(model.blocks)
        if isinstance(block.mix, Mixer) and block.mix.router is not None
    }
    if not layers:
        return []
    state, seen = model.init_state(len(ids)), 0
    with watched(model, lambda layer, call: layers[layer].add(call, seen)):
        for t in range(ids.shape[1]):
            seen = t + 1
            _, state = model.features(ids[:, t : t + 1], state, inplace=True)
            tick()
    return [layer.summary(i) for i, layer in layers.items()]
