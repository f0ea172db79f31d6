"""Which settings of cache="blocks" answer best, for a decoder that was not trained with it? Facts in real text, read and asked.

    python tools/settle_blocks.py RUN --text A.txt --text B.txt --text C.txt [--tokens 3000] [--facts 7] \
        [--read route_every=32 --read route_every=8,top_k=32] [--chat] --out settled.json

Each text gets facts of all kinds (`siltstone.eval.tasks.facts`), the last of them more than a window before its end. It is read
once with each setting of `--read`; every question is asked on a fork, twice: with blocks chosen as they are while reading, and
before every token (`Session.asking`). Settings are keys of a configuration, or of `cache_options`; "full" and "window" are full
attention, and sinks + window alone. A result that is in the file is not measured again. CPU seconds are those of the process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.cache.blocks import BlocksOptions
from siltstone.eval.tasks.base import random_numbers
from siltstone.eval.tasks.facts import Fact, facts
from siltstone.eval.tasks.reader import Reader
from siltstone.eval.tasks.words import spread
from siltstone.hf import BLOCKS
from siltstone.inference.asking import begin
from siltstone.inference.attending import attends
from siltstone.inference.chat import Turns
from siltstone.io.atomic import write_text
from siltstone.models.lm import LM
from siltstone.text import read_blocks

BASE = {key: value for key, value in BLOCKS.items() if key not in ("cache_options", "checkpoint_dtype")}
OPTIONS = {field.name for field in fields(BlocksOptions)}
PLAIN = {"full": dict(pattern="a"), "window": dict(pattern="w", window=512, sinks=4)}


@dataclass(frozen=True)
class Text:
    """A text with facts, as ids."""

    name: str
    ids: list[int]
    made: list[Fact]


def keys(setting: str) -> dict[str, Any]:
    """The keys of a setting such as "route_every=8,top_k=32"."""
    if setting in PLAIN:
        return PLAIN[setting]
    found, options = dict(BASE), {}
    for part in filter(None, setting.split(",")):
        name, _, value = part.partition("=")
        given = int(value) if value.isdecimal() else value
        (options if name in OPTIONS else found)[name] = given
    return found | {"cache_options": options}


def with_keys(model: LM, setting: str) -> LM:
    """A model with the same weights and other keys; it shares the weights."""
    with torch.device("meta"):
        twin = LM(model.cfg.replace(**keys(setting)))
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval()


def prepared(tokenizer: Any, path: Path, tokens: int, count: int, tail: int) -> Text:
    """A text of about `tokens` tokens with `count` facts, the last `tail` tokens without any."""
    by = random_numbers("settle", "train", len(path.name), tokens)
    reader = Reader(None, tokenizer, ["".join(read_blocks(path))])  # type: ignore[arg-type]
    made = facts(count, by, wordings=1)
    between, end = reader.filler(tokens - tail - 12 * count, by), reader.filler(tail, by)
    text = spread(between, [fact.sentence for fact in made], by) + "".join(end)
    return Text(path.stem, tokenizer.encode(text), made)


def spoken(tokenizer: Any, fact: Fact, chat: bool) -> list[int]:
    """Ids of a question and of the sentence that answers it, up to the answer."""
    if not chat:
        return tokenizer.encode(fact.question)
    text, said = fact.question.partition("Question: ")[2].partition("\n")[0], fact.question.partition("Answer: ")[2]
    return Turns(tokenizer).behind(text) + tokenizer.encode(said)


def asked(s: st.Session, fact: Fact, asking: bool, chat: bool) -> tuple[bool, float]:
    """Whether the first token of the answer is right, and the log-probability of the answer (nats)."""
    one = s.fork()
    one.asking = asking
    one.append(spoken(s.tokenizer, fact, chat))
    answer = s.tokenizer.encode(f" {fact.answer}")
    assert one.logits is not None
    return int(one.logits.argmax()) == answer[0], float(one.score(answer).double().sum())


def measured(model: LM, tokenizer: Any, text: Text, setting: str, chat: bool) -> list[dict[str, Any]]:
    """Reads a text and asks in both ways."""
    s, began = st.Session(with_keys(model, setting), tokenizer), time.process_time()
    if chat:
        begin(s)
    s.append(text.ids)
    spent, out = time.process_time() - began, []
    for asking in (False, True)[: 1 + attends(s.model)]:
        began = time.process_time()
        found = [asked(s, fact, asking, chat) for fact in text.made]
        row = {"text": text.name, "tokens": len(text.ids), "read": setting, "asking": asking, "chat": chat}
        row |= {"cpu_read": round(spent, 1), "cpu_ask": round((time.process_time() - began) / len(found), 2)}
        row |= {"right": [int(x) for x, _ in found], "nats": [round(-x, 3) for _, x in found], "bytes": s.nbytes}
        out.append(row)
    return out


def table(rows: list[dict[str, Any]]) -> str:
    """Lines of Markdown. CPU seconds are those of reading 1,000 tokens, and of a question. The log-probability is in nats."""
    lines = [
        "| tokens | read with | chosen for the question | as | texts | right | log-probability | CPU s to read | CPU s to ask |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((round(row["tokens"], -3), row["chat"], row["read"], row["asking"]) for row in rows)
    for tokens, chat, read, asking in groups:
        here = [
            row for row in rows
            if (round(row["tokens"], -3), row["chat"], row["read"], row["asking"]) == (tokens, chat, read, asking)
        ]  # fmt: skip
        right, nats = ([x for row in here for x in row[key]] for key in ("right", "nats"))
        cost = 1000 * sum(row["cpu_read"] for row in here) / sum(row["tokens"] for row in here)
        each = sum(row["cpu_ask"] for row in here) / len(here)
        way = "-" if read in PLAIN else "before every token" if asking else "as while reading"
        given = f"| {tokens:,} | {read} | {way} | {'chat' if chat else 'text'} | {len(here)} "
        lines.append(f"{given}| {sum(right)} of {len(right)} | {-sum(nats) / len(nats):.2f} | {cost:.1f} | {each:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="an imported decoder with full attention")
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--facts", type=int, default=7)
    parser.add_argument("--tail", type=int, default=700, help="tokens after the last fact, at least")
    parser.add_argument("--read", action="append", default=[])
    parser.add_argument("--chat", action="store_true", help="ask in the chat template, as `siltstone ask` does")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    model, tokenizer = st.load(given.run)
    for path in given.text:
        text = prepared(tokenizer, path, given.tokens, given.facts, given.tail)
        for setting in given.read or ["full"]:
            if any(
                (row["text"], row["tokens"], row["read"], row["chat"]) == (text.name, len(text.ids), setting, given.chat)
                for row in rows
            ):
                continue
            rows += measured(model, tokenizer, text, setting, given.chat)
            write_text(given.out, json.dumps(rows, indent=1) + "\n")
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
