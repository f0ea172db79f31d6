"""Every update rule, compressor and caching policy, compared with causal attention, and some rules with public packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import registry
from ..models.layer import MemoryCaching
from .timing import Row, interleaved

WIDTH, HEADS = 128, 4
EXTRA = "{} is not installed; install the bench extra: pip install 'siltstone[bench]'"
AIMS = {("gated_delta", "forward", 8192): 3.0}  # target ratio to attention on given queries, keys and values


class Attention(nn.Module):
    """Causal attention with its own projections, without position encoding."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention on [B, H, T, K] each."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def alone(rule: str, options: dict[str, Any], heads: int = HEADS) -> MemoryCaching:
    """A layer with little more than the update rule: no window, no delay, no compression, no segment ends."""
    return MemoryCaching(WIDTH, heads=heads, window=0, write_delay=0, memory=rule, memory_options=options, cache="none")


def around(**keys: Any) -> MemoryCaching:
    """A layer for a compressor or a caching policy: a window of 64, the cheapest rule, segments of 256."""
    return MemoryCaching(WIDTH, heads=HEADS, window=64, **{"memory": "gated", "cache": "none", "segment": 256} | keys)


def contenders() -> list[tuple[str, str, dict[str, Any], MemoryCaching]]:
    """Family, member, options and layer of every update rule, compressor (four tokens a write) and caching policy."""
    found = [("memory", rule, options, alone(rule, options)) for rule, options in registry.settings("memory")]
    for name, options in registry.settings("compress"):
        rate = 1 if name == "identity" else 4
        found.append(("compress", name, options, around(compress=name, compress_options=options, rate=rate)))
    found += [("cache", name, options, around(cache=name, cache_options=options)) for name, options in registry.settings("cache")]
    return found


def rows(quick: bool, threads: tuple[int, ...]) -> Iterator[Row]:
    """Every row, as soon as it is measured."""
    rounds, lengths, peer = (1, (128, 512), 64) if quick else (7, (2048, 8192), 512)
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            torch.manual_seed(0)
            for tokens in lengths:
                yield from against_attention(count, rounds, tokens)
            yield from against_package(count, rounds, peer)
            yield from against_titans_pytorch(count, rounds, peer)
    finally:
        torch.set_num_threads(before)


def against_attention(threads: int, rounds: int, tokens: int) -> Iterator[Row]:
    """All members, and attention with and without projections, in the same rounds: forward, then forward + backward."""
    attention, x = Attention(), torch.randn(1, tokens, WIDTH)
    qkv = [torch.randn(1, HEADS, tokens, WIDTH // HEADS, requires_grad=True) for _ in range(3)]
    calls: dict[str, Callable[[], Tensor]] = {"attention": lambda: attention(x), "bare": lambda: attend(*qkv)}
    members = {}
    for family, name, options, layer in contenders():
        label = registry.label(name, options)
        label = label if family == "memory" else f"{family} {label}"
        members[label] = (family, name, options, held(layer, x if family != "memory" else None))
        calls[label] = lambda layer=layer: layer(x)[0]
    for which in ("forward", "forward + backward"):
        if which == "forward":
            with torch.no_grad():
                ms = interleaved(calls, rounds)
        else:
            ms = interleaved({name: lambda call=call: call().sum().backward() for name, call in calls.items()}, rounds)
        for label, (family, name, options, state) in members.items():
            more: dict[str, Any] = {
                "family": family,
                "member": name,
                "options": options,
                "pass": which,
                "tokens": tokens,
                "tokens_per_second": tokens / ms[label] * 1e3,
                "against_attention": ms["attention"] / ms[label],
                "against_bare_attention": ms["bare"] / ms[label],
                "state_bytes": state,
            }
            note = f"{more['tokens_per_second']:,.0f} tokens/s, a state of {state:,} bytes; "
            note += f"against SDPA alone {more['against_bare_attention']:.2f}"
            claim = f"{label}, {which} at {tokens}: against"
            yield Row(
                f"{claim} attention with its projections", threads, "fp32", ms[label], ms["attention"],
                more["against_attention"], None, note=note, more=more,
            )  # fmt: skip
            if family == "memory" and not options and (aim := AIMS.get((name, which, tokens))):
                yield Row(f"{claim} SDPA alone", threads, "fp32", ms[label], ms["bare"], more["against_bare_attention"], aim)


@torch.no_grad()
def held(layer: MemoryCaching, x: Tensor | None) -> int:
    """Bytes of the whole layer's state after x; for None, bytes of its memory only."""
    return layer.mix.memory.init(1).nbytes if x is None else layer(x)[1].nbytes


def against_package(threads: int, rounds: int, tokens: int) -> Iterator[Row]:
    """The MLP memories of the PyPI package memory-caching, of the same width, in one segment; it takes one gradient a token."""
    for rule, backend in (("deep", "dla"), ("titans", "titans")):
        layer, x = alone(rule, {}), torch.randn(1, tokens, WIDTH)
        for which, mode in (("forward", "stopgrad"), ("forward + backward", "differentiable")):
            claim = f"{rule}, {which} at {tokens}: against memory-caching's {backend}"
            aim = 15.0 if tokens >= 512 else None
            peer = _package(backend, mode, tokens)
            if peer is None:
                yield Row(claim, threads, "fp32", None, None, None, aim, note=EXTRA.format("memory-caching"))
                continue
            ms = _pair(which, lambda layer=layer, x=x: layer(x)[0], lambda peer=peer, x=x: peer(x), rounds)
            note = f"our gradients share a base for {layer.mix.memory.align(layer.mix.memory.options)} writes"
            yield Row(claim, threads, "fp32", ms["ours"], ms["peer"], ms["peer"] / ms["ours"], aim, note=note)


def _package(backend: str, mode: str, tokens: int) -> Any:
    """The package's layer with a memory of the same width, or None if the package is not installed."""
    try:
        import memory_caching  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    mc: Any = memory_caching
    keys: dict[str, Any] = {"memory_width": 4 * WIDTH // HEADS, "inner_update_mode": mode}
    if backend == "dla":
        inner = mc.DLAConfig(**keys)
        memory = mc.DLABackend(inner)
    else:
        inner = mc.TitansConfig(**keys, update_convention="gradient_descent")
        memory = mc.TitansBackend(inner)
    sizes = {"d_model": WIDTH, "num_heads": HEADS, "segment_size": tokens, backend: inner}
    return mc.MemoryCachingLayer(config=mc.MCConfig(backend=backend, aggregation="residual", **sizes), backend=memory)


def against_titans_pytorch(threads: int, rounds: int, tokens: int) -> Iterator[Row]:
    """One memory over the whole width, with that package's defaults, and with the chunk size of its readme (less work)."""
    layer, x = alone("titans", {}, heads=1), torch.randn(1, tokens, WIDTH)
    aim = 1.0 if tokens >= 512 else None
    sizes: dict[str, dict[str, Any]] = {"at its defaults": {}, "one decay and momentum for 64 tokens": {"chunk_size": 64}}
    for kind, keys in sizes.items():
        want = None if keys else aim
        try:
            from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]
        except ImportError:
            claim = f"titans: against titans-pytorch, {kind}"
            yield Row(claim, threads, "fp32", None, None, None, want, note=EXTRA.format("titans-pytorch"))
            continue
        peer = NeuralMemory(WIDTH, **keys)
        for which in ("forward", "forward + backward"):
            ms = _pair(which, lambda: layer(x)[0], lambda peer=peer: peer(x)[0], rounds)
            claim = f"titans, {which} at {tokens}: against titans-pytorch, {kind}"
            yield Row(claim, threads, "fp32", ms["ours"], ms["peer"], ms["peer"] / ms["ours"], want, note="one head of 128")


def _pair(which: str, ours: Callable[[], Tensor], peer: Callable[[], Tensor], rounds: int) -> dict[str, float]:
    if which == "forward":
        with torch.no_grad():
            return interleaved({"ours": ours, "peer": peer}, rounds)
    return interleaved({"ours": lambda: ours().sum().backward(), "peer": lambda: peer().sum().backward()}, max(1, rounds // 2))
