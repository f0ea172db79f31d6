"""The plots of a record, for the report and for the picture."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..inference.receipt import human
from ..report import svg
from .record import Record


def _bytes(value: float) -> str:
    return human(value).replace(".0 ", " ")


def time_plot(record: Record, place: str = "", size: svg.Size = (640, 300)) -> str:
    """ms a token against position, both readers."""
    lines = [
        svg.Line(name, trace.position, svg.smooth(trace.ms), colour, trace.ms)
        for name, trace, colour in (("Siltstone", record.reader, "a"), ("transformer", record.transformer, "b"))
        if trace.position
    ]
    return svg.plot(lines, "Milliseconds a token", "tokens read", from_zero=True, place=place, size=size)


def memory_plot(record: Record, place: str = "", size: svg.Size = (640, 300)) -> str:
    """Bytes of the state against position, both readers."""
    lines = [
        svg.Line(name, trace.position, trace.bytes, colour)
        for name, trace, colour in (("Siltstone", record.reader, "a"), ("transformer", record.transformer, "b"))
        if trace.position
    ]
    return svg.plot(
        lines,
        "Memory of what was read",
        "tokens read",
        log_x=True,
        log_y=True,
        y_format=_bytes,
        place=place,
        size=size,
    )


def shortest(record: Record) -> str:
    """The shortest context of the samples, in tokens, as a key of them; "" without samples."""
    return min((key for sample in record.samples[:1] for key in sample if key != "session"), key=int, default="")


def gain_plot(record: Record, place: str = "", size: svg.Size = (640, 300)) -> str:
    """Bits per byte that the session saves over its last window alone: each sample as a faint dot, the mean so far as a line."""
    near = shortest(record)
    saved = [sample[near] - sample["session"] for sample in record.samples] if near else []
    means = [sum(saved[: i + 1]) / (i + 1) for i in range(len(saved))]
    lines = [svg.Line("mean so far", record.sampled, means, "a", saved)] if saved else []
    return svg.plot(lines, "Bits per byte saved by the memory", "tokens read", from_zero=True, place=place, size=size)


def loss_plot(evidence: dict, size: svg.Size = (640, 300)) -> str:
    """The shipped checkpoint's training: `evidence["loss"]` = {"step": [...], "train": [...], "valid": [[step, bits], ...]}."""
    loss = evidence.get("loss", {})
    lines = []
    if loss.get("train"):
        lines.append(svg.Line("training", loss["step"], svg.smooth(loss["train"], 5), "a", loss["train"]))
    if loss.get("valid"):
        steps, values = zip(*loss["valid"], strict=True)
        lines.append(svg.Line("validation", steps, values, "b"))
    return svg.plot(lines, "Bits per byte while training", "step", size=size)


def position_plot(evidence: dict, size: svg.Size = (640, 300)) -> str:
    """Bits per byte by position in a document that the first model saves over each of the others.

    `evidence["by_position"]` = {"series": {name: what `siltstone.eval.by_position` returned}, "window": n, "train_length": n}.
    """
    found = evidence.get("by_position", {})
    ours, *others = found.get("series", {}).items() or [("", {"buckets": []})]
    lines = []
    for (name, result), colour in zip(others, "abc", strict=False):
        pairs = zip(ours[1]["buckets"], result["buckets"], strict=True)
        saved = [other["bits_per_byte"] - mine["bits_per_byte"] for mine, other in pairs]
        lines.append(svg.Line(f"than the {name}", [bucket["to"] for bucket in result["buckets"]], saved, colour))
    marks = [(found[key], name) for key, name in (("window", "window"), ("train_length", "training length")) if found.get(key)]
    return svg.plot(
        lines,
        "Fewer bits per byte, by position in the document",
        "position, tokens",
        log_x=True,
        from_zero=True,
        marks=marks,
        size=size,
    )


def picture(record: Record, narrow: bool = False) -> str:
    """The three plots as one SVG file: in one row, or (`narrow`) in one column, for screens of 390 pixels."""
    size, across = ((350, 270), 1) if narrow else ((400, 300), 3)
    curves = (time_plot, memory_plot, gain_plot)
    draw: list[Callable[[str], str]] = [functools.partial(curve, record, size=size) for curve in curves]
    return svg.picture(draw, size, across)
