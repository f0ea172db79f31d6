"""Whole models: prefill, training and decoding against a transformer of the same size, and session bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from ..config.presets import small
from ..models.lm import LM
from ..models.stream_state import LMState
from ..schedule.packed import RowPositions
from ..state.tree import Store
from .timing import Row, interleaved

VOCAB = 256


def pair(dtype: torch.dtype, **keys: object) -> tuple[LM, LM]:
    """A memory model (preset small) and a transformer with the same number of parameters, due to a wider MLP."""
    ours = LM(small(VOCAB, **({"segments": "constant"} | keys)))
    plain = {k: v for k, v in keys.items() if k in ("depth", "d_model", "heads")}
    peer = LM(small(VOCAB, pattern="a", **plain))
    cfg = peer.cfg
    more = round((ours.parameters_count - peer.parameters_count) / (3 * cfg.layer.d_model * cfg.depth))
    peer = LM(cfg.replace(mlp_dim=cfg.hidden + more))
    return ours.to(dtype).eval(), peer.to(dtype).eval()


def at_position(model: LM, position: int, scale: float = 0.02) -> LMState:
    """A state with the shapes after `position` tokens; its checkpoints and caches are filled with noise."""
    state = model.init_state(1)
    positions = RowPositions(np.array([position]), np.zeros(1, np.int64))
    mixers: list[Any] = [cast(Any, b).mix for b in model.blocks]

    def noise(x: Any) -> Any:
        if isinstance(x, Store):
            return x.map(noise)
        return torch.randn_like(x) * scale if x.is_floating_point() else x

    layers = tuple(layer.sized(mix, positions).map(noise) for layer, mix in zip(state.layers, mixers, strict=True))
    return LMState(positions, layers, model.cfg).chunked()


def prefill(threads: int, rounds: int, dtype: torch.dtype, tokens: int) -> Iterator[Row]:
    """A text of `tokens` tokens read in one call (logits of the last token)."""
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    ours, peer = pair(dtype, cache="sparse", gate="softmax")
    ids = torch.randint(VOCAB, (1, tokens))

    @torch.no_grad()
    def read(model: LM) -> None:
        model.head(model.features(ids)[0][:, -1:])

    ms = interleaved({"ours": lambda: read(ours), "peer": lambda: read(peer)}, max(1, rounds // 3))
    want: tuple[float | None, float | None] = (None, None)
    if tokens >= 32768:
        want = (10.0, None) if name == "bf16" else (5.0, 4.5)
    claim = f"model prefill at {tokens}, sparse: against a transformer of the same size"
    yield Row(claim, threads, name, ms["ours"], ms["peer"], ms["peer"] / ms["ours"], target=want[0], prototype=want[1])


def training(threads: int, rounds: int, dtype: torch.dtype, tokens: int) -> Iterator[Row]:
    """One forward and backward pass over 8,192 tokens in rows of `tokens`; bf16 by autocast, as in `siltstone train`."""
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    rows = max(1, 8192 // tokens)
    ids = torch.randint(VOCAB, (rows, tokens + 1))
    ours, peer = pair(torch.float32, cache="sparse", gate="softmax")

    def step(model: LM) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
            logits, _ = model(ids[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()).backward()

    once = rounds == 1  # then the first call counts
    ms = interleaved({"ours": lambda: step(ours), "peer": lambda: step(peer)}, 1 if once else max(2, rounds // 3), int(not once))
    want = {"fp32": ((0.9, 1.0), (2.0, None)), "bf16": ((1.1, None), (3.5, None))}[name][tokens > 1024]
    claim = f"training, rows of {tokens}, sparse: tokens/s against a transformer of the same size"
    yield Row(claim, threads, name, ms["ours"], ms["peer"], ms["peer"] / ms["ours"], target=want[0], prototype=want[1])


def session_bytes(position: int = 131072) -> Iterator[Row]:
    """Bytes of a session, against a key-value cache of the same dtype."""
    cache = 2 * 6 * position * 384 * 4
    for segments, start, want in (
        ("constant", "restart", None),
        ("logarithmic", "restart", 200.0),
        ("logarithmic", "carry", 200.0),
    ):
        model = LM(small(VOCAB, cache="sparse", segments=segments, start=start))
        size = at_position(model, position).nbytes
        claim = f"session bytes at {position}, {segments} segments, {start}: against a key-value cache"
        yield Row(claim, 1, "fp32", size, cache, cache / size, want, unit="bytes")
