"""Recall in a demonstration: facts strewn through the text and asked at its end, told, not told, and with the window alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..eval.retrieval import RereadReader
from ..eval.tasks.base import random_numbers
from ..eval.tasks.facts import Fact, Facts, FactsOptions
from ..eval.tasks.reader import Reader
from ..inference.receipt import human
from ..models.checkpoint import build, read
from . import text

if TYPE_CHECKING:
    from ..inference import Session
    from ..models.lm import LM
    from ..text import Tokenizer

FACTS = 8  # one of each kind
LENGTHS = (32768, 16384, 8192, 4096, 2048)  # tokens of the text: the longest for which there is time
SHARE = 0.2  # of the demonstration's time
RECORDED = "evidence.json"
PROBE = 1024  # tokens by which the speed is measured
# How blocks are chosen while the text is read: less often, and in two stages. Questions choose before every token, of all blocks.
READING = {"route_every": 16, "coarse": 16, "coarse_from": 4096, "candidates": 128}
NAMES = {"told": "told", "once": "told, no passage read again", "not told": "not told", "window": "window alone"}
WAYS = tuple(NAMES)


def model_of(run: Path) -> tuple[LM, Tokenizer]:
    """The model of a run folder, whose layers with blocks choose as READING says, and its tokenizer."""
    cfg, tokenizer, weights = read(run)
    layers = {
        number: keys | ({"cache_options": keys["cache_options"] | READING} if keys.get("cache") == "blocks" else {})
        for number, keys in cfg.to_dict()["layers"].items()
    }
    model = build(cfg.replace(layers=layers))
    model.load_state_dict(weights)
    return model.float().eval(), tokenizer


def chosen_length(per_token: float, seconds: float) -> int:
    """The longest of LENGTHS that can be read twice, at so many seconds a token, in the time; the shortest if none can."""
    return next((length for length in LENGTHS if 2 * length * per_token <= seconds), LENGTHS[-1])


def ask(run: Path, seconds: float, say: Callable[[str], None] = lambda line: None, most: int = LENGTHS[0]) -> dict[str, Any]:
    """Reads the text with and without FACTS facts and asks for each at the end. Ready for JSON:

    `{"recorded", "tokens", "bytes", "window", "model", "asked": [{"sentence", "question", "answer", "distance", "said": {way:
    text}, "right": {way: bool}, "nats": {way: nats of the answer}}]}`, for the WAYS: the model has read the text with the facts
    ("told"), the text without them ("not told"), or the last window of the text with them ("window"). Before a question it reads
    the passages again that the question attends to most, except for "once" (as told) and "window". "recorded": the figures of
    earlier evaluations that the run folder has.

    seconds   about how long it may take, which limits the length
    most      maximum tokens of the text
    Raises DataError without text.
    """
    model, tokenizer = model_of(run)
    found = text.reading(tokenizer, 2 * LENGTHS[0] + PROBE, run)
    book = tokenizer.decode(found.ids.tolist())
    reader = RereadReader(model, tokenizer, [book])
    clock = time.perf_counter()
    reader.read(tokenizer.decode(found.ids[:PROBE].tolist()))
    length = min(most, chosen_length((time.perf_counter() - clock) / PROBE, seconds))
    if len(found.ids) < length:
        raise DataError(f"the text has {len(found.ids):,} tokens, fewer than the {length:,} in which facts are told")
    task = Facts(FactsOptions(FACTS))
    told, control, made = task.item(reader, length, random_numbers("demo", "test", 0))
    window = model.cfg.widest_window
    tail = tokenizer.decode(tokenizer.encode(told)[-window:]) if window else "\n"
    first = reader.read(told)
    sessions = dict(zip(WAYS, (first, first, reader.read(control), reader.read(tail)), strict=True))
    asked = [_asked(reader, sessions, fact, told) for fact in made]
    asked.sort(key=lambda one: -one["distance"])
    recorded = json.loads((run / RECORDED).read_text("utf-8")) if (run / RECORDED).is_file() else {}
    out = {
        "recorded": recorded,
        "tokens": first.position,
        "bytes": first.nbytes,
        "window": window,
        "model": f"{model.parameters_count:,} parameters",
    }
    say(f"  {first.position:,} tokens of the text with {len(made)} facts ({human(first.nbytes)}); asked at the end:")
    for one in asked[:3]:
        shown = one["question"].strip().replace("\n", " ")
        say(f"  told {one['distance']:,} tokens before: {shown} | {one['said']['told'].strip() or '...'}")
    say("  right: " + ", ".join(f"{NAMES[way]} {sum(one['right'][way] for one in asked)} of {len(asked)}" for way in WAYS))
    return out | {"asked": asked}


def _asked(reader: RereadReader, sessions: dict[str, Session], fact: Fact, told: str) -> dict[str, Any]:
    distance = reader.count(told[told.index(fact.sentence) + len(fact.sentence) :])
    tokens = reader.count(f" {fact.answer}")
    said, nats = {}, {}
    for way, session in sessions.items():
        again = way in ("told", "not told")
        asked = reader.asking(session, fact.question) if again else Reader.asking(reader, session, fact.question)
        nats[way] = float(reader.nats(asked, f" {fact.answer}").sum())
        said[way] = "".join(asked.generate(tokens, temperature=0.0))
    right = {way: words.strip().startswith(fact.answer) for way, words in said.items()}
    return asdict(fact) | {"distance": distance, "said": said, "right": right, "nats": nats}
