"""Findings: one line each, with the measured figure and advice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.model import LMConfig
from .equality import Check

STUCK = 0.9  # share of saturated gates
ALIKE, STILL = 0.995, 0.02  # entropy / limit above ALIKE and deviation of a gate below STILL: the router does not select
UNREAD = 0.01  # share of tokens, or mean sigmoid gate
VANISHED, EXPLODED, CLIFF = 1e-6, 100.0, 100.0  # relative to n = 1; CLIFF: ratio of one doubling of n to the next

_MENDS = {
    "calls of random lengths": "the results of a session depend on how its text was split into calls: do not rely on sessions "
    "of this model",
    "a token a call": "decoding differs from one call with the same text: the decode step (`step` of the update rule) and the "
    "chunk program (`scan`) give different results; do not rely on sessions of this model",
    "a row of a batch": "rows of a batch influence each other: read one text a call until this is fixed",
    "padding on the left": "padding is not skipped: give texts of equal length, without `mask`, until this is fixed",
    "padding on the right": "padding is not skipped: give texts of equal length, without `mask`, until this is fixed",
    "padding between tokens": "padding is not skipped: give texts without gaps, without `mask`, until this is fixed",
    "behind another document": "`reset` keeps parts of the earlier document: begin every document with a new state until "
    "this is fixed",
    "after a fork": "a fork and its original change each other: do not use `fork`, `snapshot` or `rollback` until this is fixed",
    "after a session file": "a restored session does not continue as the saved one: read its text again until this is fixed",
    "after state.tensors()": "a restored state does not continue as the saved one: read its text again until this is fixed",
}
_CAUSES = {
    "padding on the left": ["calls of random lengths"],
    "padding on the right": ["calls of random lengths"],
    "padding between tokens": ["calls of random lengths"],
    "a row of a batch": ["calls of random lengths"],
    "after a fork": ["calls of random lengths", "a token a call"],
    "after a session file": ["calls of random lengths", "a token a call"],
    "after state.tensors()": ["calls of random lengths", "a token a call"],
}  # ways that include such calls
_CHECK = (
    "Check, in this order: (1) `siltstone doctor demo`: if it fails too, the installation is faulty (files of two versions, or "
    "another torch): install again into an empty environment; (2) your own memory rule, compressor or cache: check that its "
    "`scan` and `step` agree (CONTRIBUTING.md has the tests); (3) the run's folder: if files in it were edited or copied from "
    "elsewhere, restore the folder that `siltstone train` or `st.save` wrote, and use the version that wrote it. If none of this "
    "helps, it is a fault of Siltstone: report it where you got Siltstone, with this report and your settings"
)
_ROUNDING = (
    "float64 agrees, so that this is rounding and not a fault: check that float32 is not reduced "
    '(torch.set_float32_matmul_precision("highest"), no TF32, no autocast); if it is not, weights or gates are very large: train '
    "with a lower --lr or --clip"
)
_STUCK = (
    "the layer does not select, and no gradient passes through its gates: train with a lower --lr (for example a third of it) "
    "or a larger temperature (--set temperature=0.5); the weights that saturate gates are router.bias, router.online and "
    "router.log_scale"
)
_REACH = (
    "train with a shorter window, so that the memory is needed (arXiv 2509.24552), on longer rows (--length), or with "
    "start=carry instead of restart (or restart instead of carry, with a cache that reads checkpoints) or a shorter segment; the "
    "initial decay of the rule is given by the biases of its decay"
)
_LONGER = "give a longer text, or more --tokens"
_READ = "train on longer rows (--span), or keep fewer of them: a longer segment, or segments=logarithmic"
_EXPLODES = (
    "train with a lower --lr and --clip, or choose a rule that forgets or replaces (gated, gated_delta), a shorter segment, or "
    "start=restart; very large norm weights or gates of the memory show that the lr is too high"
)


@dataclass(frozen=True)
class Finding:
    """level: "ok", "warning" or "failure"; area: "equality", "gates", "gradient", "parts" or "told"; advice: what to do, or
    empty."""

    level: str
    area: str
    text: str
    advice: str = ""


def all_findings(
    cfg: LMConfig, checks: Sequence[Check], gates: Sequence[dict[str, Any]], gradient: dict[str, Any]
) -> list[Finding]:
    """The findings on an `LM`, worst first."""
    return worst_first([*_equality(checks), *_short(checks), *_gates(cfg, gates), *_gradient(cfg, gradient)])


def equality_findings(checks: Sequence[Check]) -> list[Finding]:
    """Only the findings on the ways of reading, for any `StreamingModel`."""
    return worst_first([*_equality(checks), *_short(checks)])


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """Failures, then warnings, then what is well."""
    return sorted(found, key=lambda f: ("failure", "warning", "ok").index(f.level))


def recent(cfg: LMConfig) -> int:
    """Tokens of the window and one segment; more distant tokens have an effect only through checkpoints or a lasting memory."""
    layer = cfg.layer
    return layer.window + (layer.segment if layer.members.cache.cls.keeps else max(layer.window, 16))


def _equality(checks: Sequence[Check]) -> Iterator[Finding]:
    bad: dict[str, Check] = {c.way: c for c in checks if not c.ok}  # if both dtypes fail, the one of higher precision
    told = False
    for c in bad.values():
        exact = any(o.way == c.way and o.ok for o in checks)
        advice = _mend(c, exact, bad)
        if advice == _MENDS[c.way] and not told:  # added only once
            advice, told = f"{advice}. {_CHECK}", True
        yield Finding("failure", "equality", f"{c.way} ({c.dtype}{' only' * exact}): {_apart(c)}", advice)
    for dtype in dict.fromkeys(c.dtype for c in checks):
        mine = [c for c in checks if c.dtype == dtype]
        if all(c.ok for c in mine):
            text = f"{len(mine)} ways of reading agree in {dtype} to {max(c.difference for c in mine):.1e}"
            ties = f"; compared before token {mine[0].tokens}, at which rounding decides a sparse choice"
            yield Finding("ok", "equality", f"{text} (allowed {mine[0].tolerance:.0e}){ties * (mine[0].tokens < mine[0].of)}")


def _short(checks: Sequence[Check]) -> Iterator[Finding]:
    """A warning if the text has fewer than two ends of segments."""
    if checks and (cuts := checks[0].cuts) is not None and cuts < 2:
        text = f"only {checks[0].of} tokens were read, with {cuts} end{'s' * (cuts != 1)} of segments"
        yield Finding("warning", "equality", text, _LONGER)


def _apart(c: Check) -> str:
    if math.isnan(c.difference):
        return "logits are nan"
    if c.difference > c.tolerance:
        return f"logits differ by {c.difference:.1e} (allowed {c.tolerance:.0e}), most at token {c.token}"
    return "the restored state does not continue with the same bits"


def _mend(c: Check, exact: bool, bad: Mapping[str, Check]) -> str:
    if math.isnan(c.difference):
        return "weights or an update overflow: train again with a lower --lr, or from an older copy of the run"
    if c.same_bits is False:
        return _MENDS[c.way]
    if exact and c.dtype == "float32":
        return _ROUNDING
    causes = [cause for cause in _CAUSES.get(c.way, ()) if cause in bad]
    return f"this follows from {causes[0]!r}" if causes else _MENDS[c.way]


def _gates(cfg: LMConfig, gates: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    if not gates:
        caches = " and ".join(f"cache={name}" for name in sorted({layer.cache for layer in cfg.memory_layers}))
        without = f"{caches} {'have' if ' ' in caches else 'has'} none" if caches else "no layer has a memory"
        yield Finding("ok", "gates", f"no gates to examine: {without}")
    for g in gates:
        name = f"layer {g['layer']} ({g['cache']}, {g['gate']})"
        if not g["tokens"]:
            yield Finding("warning", "gates", f"{name}: no token had a checkpoint to read", _LONGER)
            continue
        share, softmax = g["saturated"], g["gate"] == "softmax"
        choice = None if g["entropy"] is None else g["entropy"] / g["entropy_limit"]
        entropy = "" if choice is None else f", entropy {g['entropy']:.2f} of {g['entropy_limit']:.2f} bits"
        if softmax and g["online"] > 1 - STILL:
            text = f"{name}: the online memory has {g['online']:.1%} of the weight; the checkpoints are not read"
            yield Finding("warning", "gates", text, _STUCK)
        elif share > STUCK:
            kind = "largest weight above 0.98" if softmax else f"{g['open']:.1%} near 1, {g['shut']:.1%} near 0"
            advice = _STUCK if softmax else f"{_STUCK}, or set gate=softmax"
            yield Finding("warning", "gates", f"{name}: {share:.1%} of the gates are saturated ({kind}){entropy}", advice)
        elif choice is not None and choice > ALIKE and max(g["spread_by_head"]) < STILL:
            text = f"{name}: all checkpoints get the same weight from every token{entropy}"
            yield Finding("warning", "gates", text, "the router does not select yet: train longer, on longer rows (--span)")
        else:
            yield Finding("ok", "gates", f"{name}: {share:.1%} of the gates saturated{entropy}")
        yield from _unread(name, g)


def _unread(name: str, g: dict[str, Any]) -> Iterator[Finding]:
    """Ages whose checkpoints are hardly read, while others are read."""
    if g["gate"] == "softmax" and g["cache"] != "sparse":
        return
    used = {(u["from"], u["to"]): u["gate"] if u["picked"] is None else u["picked"] for u in g["use_by_age"]}
    unread = [f"{a} to {b}" for (a, b), share in used.items() if share < UNREAD]
    if unread and max(used.values()) >= UNREAD:
        text = f"{name}: checkpoints aged {', '.join(unread)} segments are read less than {UNREAD:.0%}"
        yield Finding("warning", "gates", text, _READ)


def _gradient(cfg: LMConfig, gradient: dict[str, Any]) -> Iterator[Finding]:
    buckets, layer = gradient["buckets"], cfg.layer
    values = [b[k] for b in buckets for k in ("all", "memory") if b[k] is not None]
    if not gradient["first"] or not all(map(math.isfinite, values)):
        why = "0 at n = 1" if gradient["first"] == 0 else "nan or infinite"
        yield Finding("warning", "gradient", f"the gradient is {why}", "look for weights that are 0, very large or nan")
        return
    most = max(buckets, key=lambda b: max(b["all"], b["memory"] or 0.0))
    peak = max(most["all"], most["memory"] or 0.0)
    if peak > EXPLODED:
        text = f"explodes: at a distance of {most['from']:,} tokens {peak:.3g} times the value at n = 1"
        yield Finding("warning", "gradient", text, _EXPLODES)
    if "memory" not in cfg.kinds:
        reach = max((b["to"] - 1 for b in buckets if b["all"] >= VANISHED), default=1)
        yield Finding("ok", "gradient", f"no layer has a memory; gradients reach {reach:,} tokens back")
        return
    edge = recent(cfg)
    beyond = [b for b in buckets if b["from"] > max(layer.delay, 1)]
    far = [b for b in beyond if b["from"] > edge]
    if not far:
        begin = 2 ** edge.bit_length()  # the first bucket beyond `edge`
        text = f"not measured for tokens beyond window and segment (n >= {begin:,})"
        advice = f"give a text of at least {-(-4 * (begin + 1) // 3):,} tokens, and the same --tokens or none"
        yield Finding("warning", "gradient", text, advice)
        return
    top = max(b["memory"] for b in far)
    falls = [(a, b) for a, b in zip(beyond, beyond[1:], strict=False) if a["memory"] > CLIFF * max(b["memory"], VANISHED)]
    if top < VANISHED:
        text = f"vanishes: through the memory at most {top:.1e} of the value at n = 1 beyond {edge:,} tokens (window and segment)"
        yield Finding("warning", "gradient", text, _REACH)
    elif falls:
        a, b = falls[0]
        text = f"falls {a['memory'] / max(b['memory'], 1e-300):.3g}-fold from n = {a['from']:,} to n = {b['from']:,}"
        yield Finding("warning", "gradient", text, _REACH)
    elif peak <= EXPLODED:
        last = far[-1]
        text = f"reaches {last['to'] - 1:,} tokens back: {last['memory']:.1e} of the value at n = 1 there, through the memory"
        yield Finding("ok", "gradient", text)
