"""The plots of a record, for the report and for the picture."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..inference.receipt import human
from ..report import svg
from .record import Record


def _cumulative(position: list[int], values: list[float]) -> list[float]:
    """Running mean of a value per chunk, weighted by the chunk's tokens."""
    out, total, before = [], 0.0, 0
    for at, value in zip(position, values, strict=True):
        total += value * (at - before)
        before = at
        out.append(total / at)
    return out


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


def bits_plot(record: Record, place: str = "", size: svg.Size = (640, 300)) -> str:
    """Bits per byte against position: each chunk as a faint dot, and the running mean as a line."""
    reader = record.reader
    lines = [svg.Line("mean so far", reader.position, _cumulative(reader.position, reader.bits), "a", reader.bits)]
    return svg.plot(lines, "Bits per byte of what was read", "tokens read", log_x=True, place=place, size=size)


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
    """Bits per byte by position in a document, one curve for each model.

    `evidence["by_position"]` = {"series": {name: what `siltstone.eval.by_position` returned}, "window": n, "train_length": n}.
    """
    found = evidence.get("by_position", {})
    lines = []
    for (name, result), colour in zip(found.get("series", {}).items(), "abc", strict=False):
        buckets = result["buckets"]
        lines.append(svg.Line(name, [b["to"] for b in buckets], [b["bits_per_byte"] for b in buckets], colour))
    marks = [(found[key], name) for key, name in (("window", "window"), ("train_length", "training length")) if found.get(key)]
    return svg.plot(
        lines,
        "Bits per byte by position in the document",
        "position, tokens",
        log_x=True,
        marks=marks,
        size=size,
    )


def picture(record: Record, narrow: bool = False) -> str:
    """The three plots as one SVG file: in one row, or (`narrow`) in one column, for screens of 390 pixels."""
    size, across = ((350, 270), 1) if narrow else ((400, 300), 3)
    curves = (time_plot, memory_plot, bits_plot)
    draw: list[Callable[[str], str]] = [functools.partial(curve, record, size=size) for curve in curves]
    return svg.picture(draw, size, across)
