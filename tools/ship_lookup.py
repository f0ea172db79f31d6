"""Puts the model that looks things up into the package, with its figures beside its twins.

    python tools/ship_lookup.py runs/lookup/models --test DIR

The folder has the models that tools/train_demo.py made: lookup, recurrence, window. DIR has whole books that none of them has
read. Writes src/siltstone/assets/lookup; heldout.json, which names the speeches of the demonstration, stays as it is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siltstone.demo import LOOKUP
from siltstone.demo.recall import RECORDED
from siltstone.errors import SiltstoneError
from siltstone.eval.compare import compare
from siltstone.eval.run import evaluate, make
from siltstone.io import write_json
from siltstone.models.checkpoint import CONFIG, TOKENIZER, WEIGHTS, load

MODELS = ("lookup", "recurrence", "window")
# task, lengths, the score that is shown, and what it is, with the values of `at`
SHOWN = (
    ("told", (0, 100, 1000), "ranked first", "told name ranked first of {candidates}, {distance:,} tokens later"),
    ("repeats", (0, 1000, 2000, 8000), "nats, first", "nats a token of a passage that is new after {distance:,} tokens"),
    ("repeats", (0, 1000, 2000, 8000), "nats, second", "nats a token of the same passage, repeated {distance:,} tokens later"),
    ("facts", (1024, 4096), "first token", "facts strewn in {length:,} tokens: first token of the answer right"),
    ("recall_load", (256,), "ranked first", "{load} owners told: the thing of one ranked first of 8, {distance:,} tokens later"),
    ("depth", (32768,), "deep minus shallow", "bits per byte of a passage after {length:,} tokens minus after {shallow:,}"),
)


def figures(
    folders: Mapping[str, Path], books: Sequence[str], size: tuple[int, int] = (3, 12), length: int = 4096, shown: Any = SHOWN
) -> dict[str, Any]:
    """`{"caption", "columns", "rows"}`: a column for each model, a row for each score at each point.

    size     seeds and items of each
    length   tokens of the parts of the books whose bits per byte are compared, by position
    """
    seeds, items = size
    found: dict[str, dict[str, str]] = {}
    heads = []
    for name, folder in folders.items():
        model, tokenizer = load(folder)
        heads.append(f"{name}, {model.parameters_count:,} parameters")
        for task, lengths, score, words in shown:
            print(f"{name}: {task}", file=sys.stderr, flush=True)
            for row in evaluate(model, tokenizer, [make(task)], lengths, seeds, items, books)["rows"]:
                if row["score"] == score:
                    said = f"{row['mean']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else "")
                    found.setdefault(words.format(**row["at"]), {})[name] = said
    for entry in compare({name: [folder] for name, folder in folders.items()}, books, length)["entries"]:
        for bucket in entry["buckets"]:
            words = f"bits per byte at {bucket['from']:,} to {bucket['to']:,} tokens, and the difference to {next(iter(folders))}"
            said = f"{bucket['bits_per_byte']:.3f}"
            if bucket["low"] is not None and entry["name"] != next(iter(folders)):
                said += f", {bucket['difference']:+.3f} ({bucket['low']:+.3f} to {bucket['high']:+.3f})"
            found.setdefault(words, {})[entry["name"]] = said
    caption = (
        f"Measured on {len(books)} held-out books, with 95 % intervals over items in brackets; one training of each model, with "
        "the same tokens."
    )
    rows = [[words, *(cells.get(name, "-") for name in folders)] for words, cells in found.items()]
    return {"caption": caption, "columns": ["", *heads], "rows": rows}


def main(given: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("models", type=Path)
    parse.add_argument("--test", type=Path, required=True)
    parse.add_argument("--out", type=Path, default=LOOKUP)
    parse.add_argument("--seeds", type=int, default=3)
    parse.add_argument("--items", type=int, default=12)
    args = parse.parse_args(given)
    books = [path.read_text("utf-8") for path in sorted(args.test.glob("*.txt"))]
    made = figures({name: args.models / name for name in MODELS}, books, (args.seeds, args.items))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, CONFIG, WEIGHTS):
        shutil.copyfile(args.models / MODELS[0] / name, args.out / name)
    write_json(args.out / RECORDED, made)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SiltstoneError as error:
        sys.exit(f"ship_lookup: error: {error}")
