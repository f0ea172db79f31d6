"""`demo-report.html`: one self-contained page that shows a record. It loads no script, font or picture."""

from __future__ import annotations

import re
import statistics
from html import escape
from typing import Any

from ..inference.receipt import human
from ..report.page import HALF, cards, figure, pair, said, table
from ..report.page import page as framed
from . import plots
from .record import Record


def page(record: Record) -> str:
    """The whole page, as text."""
    facts, reader = record.facts, record.reader
    last = reader.position[-1]
    times = f", {last // facts['window']:,} times its window" if facts["window"] else ""
    title = f"Siltstone read {last:,} tokens{times}"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{escape(facts["text"])}. {escape(facts["model"])}. {escape(facts["machine"])}.</p>',
        *[f"<p>{escape(note)}</p>" for note in record.notes],
        _cards(record),
        _recall(record.recall),
        _curves(record),
        _memory(record),
        _forks(record),
        _resume(record.resume),
        _evidence(record.evidence),
        _numbers(record),
    ]
    return framed(title, parts, record.to_dict())


def _cards(record: Record) -> str:
    reader, resume = record.reader, record.resume
    cache = record.facts["cache_bytes_a_token"] * reader.position[-1]
    shown = [
        (
            f"{reader.tenth(last=False):.3f} → {reader.tenth(last=True):.3f}",
            "milliseconds a token, in the first and in the last tenth of the text",
        ),
        (human(reader.bytes[-1]), f"the whole session's memory; a transformer's keys and values would be {human(cache)}"),
        (f"{record.bits:.3f}", "bits per byte over all of the text"),
    ]
    if resume:
        recomputed = resume["there"]["recomputed"]
        shown.append(("bit-equal" if resume["equal"] else "NOT equal", f"after a restart; {recomputed} tokens recomputed"))
    return cards(shown)


WAYS = {
    "told": "told; passages that the question attends to are read again",
    "once": "told; nothing is read again",
    "not told": "the same text without the facts",
    "window": "told, but only the last window is read",
}


def _recall(found: dict[str, Any]) -> str:
    """Facts told in the text: how many were answered, and each with its answers."""
    if not found:
        return ""
    asked = found["asked"]
    right = {way: sum(one["right"][way] for one in asked) for way in WAYS}
    nats = {way: statistics.fmean(one["nats"][way] for one in asked) for way in WAYS}
    rows = "".join(
        f"<tr><th>{name}</th><td>{right[way]} of {len(asked)}</td><td>{nats[way]:.2f}</td></tr>" for way, name in WAYS.items()
    )
    each = "".join(
        f"<tr><td>{one['distance']:,}</td><td>{escape(one['sentence'])}</td>"
        + "".join(
            f'<td class="{"good" if one["right"][way] else ""}">{escape(" ".join(one["said"][way].split()) or "(nothing)")}</td>'
            for way in WAYS
        )
        + "</tr>"
        for one in asked
    )
    return (
        "<h2>What the text said, asked at its end</h2>"
        f"<p>{len(asked)} sentences were put at random places of {found['tokens']:,} tokens of the text and asked for after it. "
        f"The model that answers has {escape(found['model'])}, attends to the last {found['window']:,} tokens and looks the "
        f"others up in its state ({human(found['bytes'])}). Before it answers, it reads the passages again that a "
        "question attends to most, as `siltstone ask` does. An answer is right if the text that the model writes, always its "
        "most likely token, begins with it.</p>"
        + table(f"<tr><th></th><th>right answers</th><th>nats of the right answer, mean</th></tr>{rows}", "num")
        + "<details><summary>All answers</summary>"
        + table(
            "<tr><th>tokens before the question</th><th>what was told</th><th>told</th><th>nothing read again</th>"
            f"<th>not told</th><th>last window</th></tr>{each}"
        )
        + "</details>"
        + _recorded(found.get("recorded", {}))
    )


def _recorded(found: dict[str, Any]) -> str:
    """Figures of the model and of its twins: {"caption", "columns", "rows"}."""
    if not found:
        return ""
    head, *rows = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in (found["columns"], *found["rows"]))
    return f"<h3>Beside its twins</h3><p>{escape(found['caption'])}</p>" + table(
        "".join(f"<tr>{row}</tr>" for row in (head.replace("td>", "th>"), *rows))
    )


def _curves(record: Record) -> str:
    facts, other = record.facts, record.transformer
    if other.position:
        rival = (
            f"The transformer has the same depth and widths, an MLP widened to {facts['transformer_parameters']:,} parameters, "
            "full attention, and random weights: only its time and memory are shown. "
            f"It read {other.position[-1]:,} tokens in its share of the time."
        )
    else:
        rival = "The transformer did not run: there was not enough time."
    chunks = f"Dots: chunks of {facts['chunk']:,} tokens, read and scored; line: running median."
    return (
        "<h2>Time a token, and memory</h2>"
        + figure(lambda size: plots.time_plot(record, size=size), f"{chunks} {escape(rival)}")
        + pair(
            figure(
                lambda size: plots.memory_plot(record, size=size),
                f"All bytes of the state. Siltstone: {escape(facts['growth'])}.",
                HALF,
            ),
            figure(
                lambda size: plots.gain_plot(record, size=size),
                f"Bits per byte of {facts['sample']:,} tokens, predicted from the last {plots.shortest(record)} tokens alone, "
                "minus those with the whole session. Dots: one place each; line: mean so far.",
                HALF,
            ),
        )
    )


def _memory(record: Record) -> str:
    n = len(record.samples)
    if n < 2:
        return ""
    session = sum(sample["session"] for sample in record.samples) / n
    rows = ""
    for context in (key for key in record.samples[0] if key != "session"):
        lost = [sample[context] - sample["session"] for sample in record.samples]
        mean, spread = statistics.fmean(lost), statistics.stdev(lost) / n**0.5
        cells = (f"only the {int(context):,} tokens before", f"{session + mean:.4f}", f"{mean:+.4f} ± {spread:.4f}")
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return (
        "<h2>The gain from the memory</h2>"
        f"<p>At {n:,} places the same model predicted the next {record.facts['sample']:,} tokens again without its memory: in a "
        "new session that had read only the tokens directly before. The difference is paired; ± is one standard error.</p>"
        + table(
            "<tr><th>predicted from</th><th>bits per byte</th><th>more than with the session</th></tr>"
            f"<tr><td>the whole session</td><td>{session:.4f}</td><td></td></tr>{rows}",
            "num",
        )
    )


def _forks(record: Record) -> str:
    if not record.forks:
        return ""
    boxes = "".join(
        f'<div class="box"><h3>Fork {"AB"[i % 2]}</h3>'
        f'<div class="text"><em>{escape(fork["prompt"].strip())}</em> {escape(fork["text"].strip())}</div></div>'
        for i, fork in enumerate(record.forks)
    )
    ms = sum(fork["ms"] for fork in record.forks) / len(record.forks)
    moved = "changed, which is a fault" if any(fork["moved"] for fork in record.forks) else "did not change"
    return (
        "<h2>One session, two continuations</h2>"
        f"<p>The session was forked after {record.reader.position[-1]:,} tokens; each fork was given a sentence (grey) "
        f"and continued it, at {ms:.1f} ms a token. The original session {moved}. The model is very small: its text has the "
        f'style of the source, but little meaning.</p><div class="pair">{boxes}</div>'
    )


def _resume(r: dict[str, Any]) -> str:
    if not r:
        return ""
    verdict = '<b class="good">the same bits</b>' if r["equal"] else '<b class="bad">NOT the same bits</b>'
    rows = "".join(
        f"<tr><th>{name}</th><td>{r[side]['process']}</td><td>{r[side]['position']:,}</td>"
        f"<td><code>{r[side]['logits'][:16]}…</code></td><td><code>{r[side]['state'][:16]}…</code></td></tr>"
        for name, side in (("this process", "here"), ("a new process", "there"))
    )
    there = r["there"]
    return (
        "<h2>Saved, and resumed in another process</h2>"
        f"<p>The session was saved to a file of {human(r['file_bytes'])} in {r['save_ms']:,.0f} ms, and a new process loaded it "
        f"in {there['load_ms']:,.0f} ms. Both then read the same {r['tokens']:,} tokens in {there['calls']:,} calls. Logits "
        f"and state have {verdict}; {there['restored']:,} tokens were restored and {there['recomputed']:,} recomputed.</p>"
        + table(
            "<tr><th></th><th>process</th><th>position</th><th>SHA-256 of all the logits</th>"
            f"<th>of the state after</th></tr>{rows}"
        )
    )


def _evidence(evidence: dict[str, Any]) -> str:
    if not evidence:
        return ""
    rows = "".join(
        f"<tr><th>{escape(_separated(str(name)))}</th><td>{said(value)}</td></tr>"
        for name, value in evidence.get("figures", {}).items()
    )
    command = f"<p><code>{escape(evidence['command'])}</code></p>" if evidence.get("command") else ""
    captions = [escape(evidence.get(key, {}).get("caption", "")) for key in ("loss", "by_position")]
    return (
        "<h2>How the checkpoint was trained</h2>"
        + command
        + pair(
            figure(lambda size: plots.loss_plot(evidence, size=size), captions[0], HALF),
            figure(lambda size: plots.position_plot(evidence, size=size), captions[1], HALF),
        )
        + (table(rows) if rows else "")
    )


def _separated(words: str) -> str:
    """Adds separators to whole numbers of five or more digits."""
    return re.sub(r"(?<![\w.,])\d{5,}(?![\w.])", lambda found: f"{int(found[0]):,}", words)


def _numbers(record: Record) -> str:
    """Tables of the values at about twenty positions, and of the facts."""
    reader, other = record.reader, record.transformer
    last = len(reader.position) - 1
    rows = ""
    for i in sorted({last * k // 20 for k in range(21)}):
        row = [f"{reader.position[i]:,}", f"{reader.ms[i]:.3f}", human(reader.bytes[i]), f"{reader.bits[i]:.3f}"]
        row += [f"{other.ms[i]:.3f}", human(other.bytes[i])] if i < len(other.ms) else ["", ""]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    facts = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{said(value)}</td></tr>" for name, value in record.facts.items()
    )
    head = ("tokens", "ms a token", "memory", "bits per byte", "transformer, ms a token", "its memory")
    return (
        "<details><summary>The figures</summary>"
        + table(f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}", "num")
        + table(facts)
        + "</details>"
    )
