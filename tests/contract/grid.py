"""The grid of cases: every memory x cache x start x segments, with a pairwise selection of all other keys."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

WIDTH = 8  # d_model
LENGTH = 28  # tokens of a case's stream

MEMORIES = [
    "linear", "gated", "delta", "gated_delta", "gru", "lstm", "min_gru", "min_lstm", "deep", "titans", "swla", "mlstm",
    "slstm", "slots",
]  # fmt: skip
INNER = ("deep", "titans", "slots")  # with an inner batch
APART = ("mlstm", "slots")  # whose states do not add up
KEYLESS = ("gru", "lstm", "slstm", "min_gru", "min_lstm")  # without keys and values to be surprised by
EQUAL = ("deep", "titans")  # with values as wide as keys
CACHES = ["none", "residual", "gated", "soup", "sparse", "exact"]
MEMORYLESS = ["blocks"]  # caches of layers without a memory: their cases are in test_blocks.py
ROUTED = ("gated", "soup", "sparse")
STARTS = ["restart", "carry"]
SEGMENTS = ["constant", "logarithmic"]
REST: dict[str, list[Any]] = dict(
    compress=["identity", "mean", "conv", "gated", "attention"],
    rate=[1, 2],
    write_delay=["window", 0],
    sinks=[0, 2],
    gate=["softmax", "sigmoid"],
    window=[3, 5, 0],
    position=["rope", "alibi", "none"],
    kv_heads=[None, 1],
    qk_norm=[False, True],
    short_conv=[0, 3],
    phase=[0, 1],
    top_k=[1, 2],
    value_dim=[None, 3],
    variant=[0, 1, 2],  # of the update rule's own options
    block=[64, 3],
    router=["mean", "subblock:2"],
    gate_distance=["none", "alibi"],
    group=[1, 2],  # writes an update
    budget=["none", "age2", "use2", "merge2", "merge1"],
    cuts=["none", "never", "few", "many"],
)
CUTS = dict(never=(), few=(6, 13, 14, 30), many=(0, 1, 2, 5, 6, 9, 12, 16, 17, 18, 24, 31, 37))  # tokens of a stream


def caches(memory: str) -> list[str]:
    """The caches that an update rule works with."""
    without = {"mlstm": ["soup"]} | dict.fromkeys(KEYLESS, ["exact"])
    return [cache for cache in CACHES if cache not in without.get(memory, [])]


def options(memory: str, variant: int) -> dict[str, Any]:
    """Options of an update rule's own in one of three variants; empty where it has none."""
    return {
        "linear": [
            dict(feature="identity", normalise=False),
            dict(feature="elu", normalise=True),
            dict(feature="softmax", normalise=False),
        ][variant],
        "gated": dict(decay=["head", "channel", "channel"][variant]),
        "delta": dict(negative=variant > 0),
        "gated_delta": dict(negative=variant > 0),
        "deep": dict(inner_batch=1 + variant, expansion=2, inner_lr=0.7, limit=[1.0, None, 1.0][variant]),
        "titans": dict(inner_batch=1 + variant, expansion=2, inner_lr=0.3, limit=[2.0, 1.0, 1.0][variant]),
        "slots": dict(inner_batch=1 + variant, number=[3, 2, 3][variant], gate=["lstm", "gru", "lstm"][variant]),
    }.get(memory, {})


def inner(memory: str, batch: int = 2, expansion: int = 2, inner_lr: float = 0.5) -> dict[str, Any]:
    """Options of an update rule with an inner batch; empty for the others."""
    if memory == "slots":
        return dict(inner_batch=batch, number=3, gate="lstm")
    return dict(inner_batch=batch, expansion=expansion, inner_lr=inner_lr) if memory in INNER else {}


@dataclass(frozen=True)
class Case:
    """One configuration. `keys` are the factors that chose it, as (name, value) pairs."""

    keys: tuple[tuple[str, Any], ...]

    @cached_property
    def factor(self) -> dict[str, Any]:
        return dict(self.keys)

    @cached_property
    def cfg(self) -> dict[str, Any]:
        """Keys for `MemoryCaching(...)` and the oracle."""
        f = self.factor
        plain = {k: v for k, v in f.items() if k not in ("phase", "variant", "block", "budget", "group", "cuts")}
        plain |= dict(segments="content") if f["cuts"] != "none" else {}
        every = f["rate"] * f["group"]
        budget = dict(max_checkpoints=int(f["budget"][-1]), evict=f["budget"][:-1]) if f["budget"] != "none" else {}
        return dict(
            d_model=WIDTH, heads=2, head_dim=4, segment=4, router_dim=4,
            compress_options=dict(queries=2, context=seeing(f)) if f["compress"] == "attention" else {},
            compress_every=every if f["group"] > 1 else None,
            memory_options=options(f["memory"], f["variant"]),
            cache_options=dict(writes=2 * f["top_k"] - 1) if f["cache"] == "exact" else {},
        ) | plain | budget  # fmt: skip

    @property
    def phase(self) -> int:
        return self.factor["phase"]

    @property
    def block(self) -> int:
        """Writes that a scan handles as one block (some rules have their inner batch instead)."""
        return self.factor["block"]

    @property
    def cuts(self) -> tuple[int, ...] | None:
        """The tokens of a stream at which it is cut; None where segments do not end by content."""
        return CUTS.get(self.factor["cuts"])

    @property
    def first_cut(self) -> int:
        """The token at whose write the first segment is sealed."""
        cfg = self.cfg
        delay = cfg["window"] if cfg["write_delay"] == "window" else 0
        every = cfg["compress_every"] or cfg["rate"]
        ends = [(t - cfg["sinks"]) // every + 1 for t in self.cuts or () if t >= cfg["sinks"]]
        updates = min(cfg["segment"] // every - self.phase, *ends, LENGTH)
        return delay + cfg["sinks"] + updates * every + every - 1

    def __str__(self) -> str:
        f = self.factor
        more = [f[name] for name in ("budget", "cuts") if f[name] != "none"]
        return "-".join([f["memory"], f["cache"], f["start"], f["segments"][:3], *more])


def used(cfg: dict[str, Any]) -> dict[str, Any]:
    """The keys of a layer or of a model, without those of caches that it does not have."""
    found = {keys.get("cache", cfg["cache"]) for keys in (cfg, *cfg.get("layers", {}).values())}
    idle = [] if "sparse" in found else ["top_k"]
    idle += [] if found & {*ROUTED} else ["gate", "router", "router_dim", "gate_distance"]
    idle += [] if found - {"none", "exact"} else ["checkpoint_dtype"]
    return {key: value for key, value in cfg.items() if key not in idle}


def seeing(f: dict[str, Any]) -> bool:
    """Whether the attention compressor sees the window."""
    return f["variant"] == 2 and f["write_delay"] == "window"


def allowed(f: dict[str, Any]) -> bool:
    """Combinations that the configuration accepts."""
    every = f["rate"] * f["group"]
    if f["window"] == 0 and (f["write_delay"] == "window" or f["sinks"] > 0 or every > 1):
        return False
    if every > 2 and f["router"] != "mean":
        return False
    if f["memory"] in INNER and options(f["memory"], f["variant"])["inner_batch"] % f["group"]:
        return False
    if f["phase"] >= 4 // every or (f["compress"] == "identity") != (f["rate"] == 1):
        return False
    if f["segments"] == "logarithmic" and (f["budget"], f["cuts"]) != ("none", "none"):
        return False
    if f["cache"] == "exact" and f["window"] == 0:
        return False
    if f["cache"] in ("none", "exact") and f["cuts"] != "none":
        return False
    if f["budget"] == "use2" and f["cache"] not in ROUTED:
        return False
    if f["memory"] in APART and f["start"] == "restart" and f["budget"][:5] == "merge":
        return False
    return f["memory"] not in EQUAL or f["value_dim"] is None


def pairs(f: dict[str, Any]) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    """The pairs of values that a case puts to the test; values without an effect do not count."""
    live = dict(f)
    if f["window"] == 0:
        for name in ("position", "kv_heads", "qk_norm"):
            live.pop(name)
    if f["cache"] in ("none", "exact"):
        for name in ("start", "segments", "phase", "budget", "cuts"):
            live.pop(name)
    if f["cache"] not in ROUTED:
        for name in ("gate", "router", "gate_distance"):
            live.pop(name)
    if f["cache"] not in ("sparse", "exact"):
        live.pop("top_k")
    if not options(f["memory"], 0):
        live.pop("variant")
    if f["memory"] in (*INNER, "gru", "lstm", "slstm"):
        live.pop("block")
    return set(itertools.combinations(sorted(live.items(), key=lambda kv: kv[0]), 2))


def make() -> list[Case]:
    """The cases, the same at every start: each takes the best of a few random fillings, counted in pairs not seen yet."""
    draw, seen, cases = random.Random(0), set(), []
    spans = [(cache, *rest) for rest in itertools.product(MEMORIES, STARTS, SEGMENTS) for cache in caches(rest[0])]
    for cache, memory, start, segments in spans:
        best, tried = {}, 0
        while tried < 20:
            f = dict(memory=memory, cache=cache, start=start, segments=segments)
            f |= {name: draw.choice(values) for name, values in REST.items()}
            f["rate"] = 1 if f["compress"] == "identity" else 2
            f |= dict(budget="none", cuts="none") if segments == "logarithmic" else {}
            f |= dict(budget="none", cuts="none") if cache in ("none", "exact") else {}
            if not allowed(f):
                continue
            tried += 1
            if not best or len(pairs(f) - seen) > len(pairs(best) - seen):
                best = f
        seen |= pairs(best)
        cases.append(Case(tuple(best.items())))
    return cases


CASES = make()


def pick(memory: str, cache: str) -> Case:
    """The case of a memory and a cache that changes with both in start and segments."""
    index = MEMORIES.index(memory) + CACHES.index(cache)
    start, segments = [*itertools.product(STARTS, SEGMENTS)][index % 4]
    want = dict(memory=memory, cache=cache, start=start, segments=segments)
    return next(case for case in CASES if want.items() <= case.factor.items())


CHOSEN = [pick(memory, cache) for memory in MEMORIES for cache in caches(memory)]
