"""One layer, compared with the PyPI package `memory-caching` and with full attention (SDPA) on given queries, keys, values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ..models.layer import MemoryCaching
from .timing import Row, interleaved

PEER = "memory-caching is not installed; install the bench extra: pip install 'siltstone[bench]'"


def _peer(kind: str) -> Any:
    """The package's layer at the sizes of the comparison, or None if the package is not installed."""
    try:
        from memory_caching import LinearMemoryBackend, MCConfig, MemoryCachingLayer  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    config = MCConfig(d_model=128, num_heads=4, backend="linear", aggregation=kind, segment_size=256, state_init_mode="restart")  # type: ignore[arg-type]
    return MemoryCachingLayer(config=config, backend=LinearMemoryBackend())


def against_package(threads: int, rounds: int, tokens: int) -> Iterator[Row]:
    """The same work (linear rule, no window, no delay, restart; d=128, 4 heads, segments of 256); its gates differ."""
    x = torch.randn(1, tokens, 128)
    kinds = (
        ("residual", "residual", (35.0, 36.0), (90.0, 84.0)),
        ("gated", "grm", (40.0, 34.0), (100.0, 68.0)),
        ("sparse", "ssc", (30.0, None), (80.0, None)),
    )
    keys = {"residual": {}, "gated": {"gate": "softmax"}, "sparse": {"gate": "softmax", "top_k": 2}}
    for cache, kind, forward, backward in kinds:
        layer = MemoryCaching(128, heads=4, window=0, write_delay=0, memory="linear", cache=cache, segment=256, **keys[cache])
        peer = _peer(kind)
        if peer is None:
            yield Row(f"layer, {cache}: against memory-caching", threads, "fp32", None, None, None, forward[0], note=PEER)
            continue
        with torch.no_grad():
            ms = interleaved({"ours": lambda m=layer: m(x), "peer": lambda m=peer: m(x)}, rounds)
        claim = f"layer forward, {cache}, T={tokens}: against memory-caching"
        yield Row.versus(claim, threads, "fp32", (ms["ours"], ms["peer"]), *forward)
        both = {"ours": lambda m=layer: m(x)[0].sum().backward(), "peer": lambda m=peer: m(x).sum().backward()}
        ms = interleaved(both, max(2, rounds // 2))
        claim = f"layer forward + backward, {cache}, T={tokens}: against memory-caching"
        yield Row.versus(claim, threads, "fp32", (ms["ours"], ms["peer"]), *backward)


def mixer(cache: str, dtype: torch.dtype) -> MemoryCaching:
    """Six heads of 64 with projections from a width of 8, so that the mixing dominates the time."""
    layer = MemoryCaching(8, heads=6, head_dim=64, window=128, segment=256, memory="gated", cache=cache, gate="softmax")
    return layer.to(dtype)


def against_attention(threads: int, rounds: int, dtype: torch.dtype, prefill: int, training: int) -> Iterator[Row]:
    """Window + memory + bank against causal SDPA over the same tokens, heads and widths."""
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    targets = {"sparse": ((12.0, 7.5), (20.0, None), (5.0, 1.7)), "gated": ((5.0, 3.3), (9.0, None), (4.0, 2.6))}
    layers = {cache: mixer(cache, dtype) for cache in targets}

    def run(cache: str, x: torch.Tensor) -> torch.Tensor:
        return layers[cache](x)[0]

    def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    with torch.no_grad():
        x = torch.randn(1, prefill, 8, dtype=dtype)
        qkv = [torch.randn(1, 6, prefill, 64, dtype=dtype) for _ in range(3)]
        contenders = {cache: lambda c=cache: run(c, x) for cache in targets} | {"sdpa": lambda: sdpa(*qkv)}
        ms = interleaved(contenders, max(2, rounds // 2))
    for cache, (fp32, bf16, _) in targets.items():
        want = (bf16 if name == "bf16" else fp32) if prefill >= 32768 else (None, None)
        claim = f"mixer prefill at {prefill}, {cache} + window: against SDPA"
        yield Row.versus(claim, threads, name, (ms[cache], ms["sdpa"]), *want)
    if name == "bf16":
        return
    x = torch.randn(1, training, 8, dtype=dtype)
    qkv = [torch.randn(1, 6, training, 64, dtype=dtype, requires_grad=True) for _ in range(3)]
    contenders = {cache: lambda c=cache: run(c, x).sum().backward() for cache in targets}
    ms = interleaved(contenders | {"sdpa": lambda: sdpa(*qkv).sum().backward()}, max(2, rounds // 2))
    for cache, (_, _, both) in targets.items():
        want = both if training >= 8192 else (None, None)
        claim = f"mixer forward + backward at {training}, {cache} + window: against SDPA"
        yield Row.versus(claim, threads, name, (ms[cache], ms["sdpa"]), *want)
