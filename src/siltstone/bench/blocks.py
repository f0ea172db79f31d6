"""Blocks on a run folder: what a token costs far into a text, what reading costs beside sinks and window alone, and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..inference.receipt import kv_cache_bytes
from ..models.checkpoint import load
from ..models.lm import LM
from ..models.stream_state import LMState
from ..state.tree import padded
from .models import at_position
from .timing import Row, interleaved

NEAR, FAR = 8192, 131_072  # positions of a token
READ = ((8192, 1.5), (65_536, 2.0))  # tokens read, and how many times as long as sinks and window they may take
CHUNK = 512  # tokens a call, as sessions read
SAMPLES = 4  # calls between which the time of a call is interpolated


def rows(folder: Path, quick: bool, threads: int) -> Iterator[Row]:
    """Every row for a model with cache="blocks", as soon as it is measured; its state is filled with noise.

    quick: up to 8,192 tokens. Raises CheckpointError, InputError.
    """
    model, rounds, far = load(folder)[0].eval().requires_grad_(False), 3 if quick else 7, NEAR if quick else FAR
    if not any(cfg.members.cache.cls.exact for cfg in model.cfg.memory_layers):
        raise InputError(f"{folder} has no layer with cache='blocks'; import it with --set pattern=m --set cache=blocks")
    plain = _windowed(model)
    yield _token(model, threads, rounds, min(NEAR, far // 2), far)
    for tokens, most in READ:
        if tokens <= far:
            yield _reading(model, plain, (threads, rounds), tokens, most)
    yield _bytes(model, far)


def _windowed(model: LM) -> LM:
    """The model with sinks and window alone."""
    pattern = "".join("w" if kind == "m" else kind for kind in model.cfg.pattern)
    keys = dict.fromkeys(("cache", "segment", "router", "top_k", "cache_options", "checkpoint_dtype"))
    fresh = LM(type(model.cfg).from_dict({k: v for k, v in model.cfg.to_dict().items() if k not in keys} | {"pattern": pattern}))
    fresh.load_state_dict(model.state_dict())
    return fresh.eval().requires_grad_(False)


def _token(model: LM, threads: int, rounds: int, near: int, far: int) -> Row:
    """Groups of tokens, so that each round has as many choices of blocks."""
    ids, held = torch.zeros(1, dtype=torch.long), {n: at_position(model, n) for n in (near, far)}
    group = max(cfg.members.cache.options.route_every for cfg in model.cfg.memory_layers if cfg.members.cache.cls.exact)

    @torch.no_grad()
    def run(position: int) -> None:
        for _ in range(group):
            held[position] = model.step(ids, held[position], inplace=True)[1]

    ms = interleaved({str(n): lambda n=n: run(n) for n in held}, rounds)
    ours, peer = ms[str(far)] / group, ms[str(near)] / group
    claim = f"blocks: tokens a second at {far:,} against {near:,}"
    return Row(claim, threads, "fp32", ours, peer, peer / ours, target=0.67)


@torch.no_grad()
def _reading(model: LM, plain: LM, times: tuple[int, int], tokens: int, most: float) -> Row:
    """Calls of 512 tokens are timed at some places of the text, and interpolated between them."""
    (threads, rounds), ids = times, torch.randint(model.cfg.vocab_size, (1, CHUNK))
    places = np.linspace(0, tokens - CHUNK, SAMPLES).astype(np.int64) // CHUNK * CHUNK
    held: dict[str, tuple[LM, LMState]] = {str(p): (model, at_position(model, int(p))) for p in places}
    held["plain"] = plain, at_position(plain, CHUNK * 4)
    ms = interleaved({name: lambda one=one: one[0].features(ids, one[1]) for name, one in held.items()}, max(1, rounds // 3), 0)
    ours = float(np.interp(np.arange(0, tokens, CHUNK), places, [ms[str(p)] for p in places]).sum())
    peer = ms["plain"] * (tokens // CHUNK)
    claim = f"blocks: reading {tokens:,} tokens against sinks and window alone"
    return Row(claim, threads, "fp32", ours, peer, ours / peer, target=most, at_most=True)


def _bytes(model: LM, position: int) -> Row:
    """What stays in memory with `spill`, without its pool of pages, against a float32 key-value cache."""
    state = model.init_state(1)
    total = state.nbytes
    for layer, block in zip(state.layers, model.blocks, strict=True):
        mixer: Any = block.mix
        if hasattr(layer, "means"):
            means: Any = layer.means  # type: ignore[attr-defined]
            count = int(mixer.law.held(mixer.law.offered(np.int64(position))))
            total += count * sum(padded(x, a, 1, 0).nbytes for x, a in zip(means.leaves, means.axes, strict=True))
    cache = kv_cache_bytes(model.cfg, position, 4)
    claim = f"blocks: resident bytes at {position:,} with spill, against a float32 key-value cache"
    return Row(claim, 1, "fp32", total, cache, total / cache, target=1 / 8, at_most=True, unit="bytes")
