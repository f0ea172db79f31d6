"""Arms of 30 to 150 M parameters on books: the same text, steps and number of parameters, for one GPU.

    until python tools/gpu_arms.py TEXT... --test HELD_OUT... --folder build/arms --slice 9; do :; done

The arms are those of `siltstone lab`. Half of the text is made from the books so that it needs memory. The held-out books are
then read by position, and the tasks `told_20` and `repeats` are asked. The same command again continues. Once the first has made
the texts, several with other `--arm` may share the folder. With `--slice` it stops after so many minutes with exit code 75, and
Ctrl-C loses nothing. Figures are in FOLDER/result.json, and pictures in FOLDER/report.html.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from train_demo import UNFINISHED, finished, shared_corpus, texts

from siltstone.config.model import LMConfig
from siltstone.core.machine import use_threads
from siltstone.errors import SiltstoneError
from siltstone.eval.arms import arms, configured, parameters
from siltstone.eval.compare import compare
from siltstone.eval.run import evaluate, make
from siltstone.io import write_json, write_text
from siltstone.io.atomic import make_folder
from siltstone.models.checkpoint import TOKENIZER, load
from siltstone.report.compare import compare_report
from siltstone.text import find_files, read_blocks
from siltstone.train import Recipe
from siltstone.train.corpus import build_corpus, hashed_files
from siltstone.train.precision import chosen_device
from siltstone.train.report import Display
from siltstone.train.same import train_one

NAMES = ("transformer", "window only", "plain recurrence", "one state of equal bytes", "gated", "sparse", "blocks")
KEYS = dict(short_conv=4, qk_norm=True, memory="gated_delta", cache="sparse", segments="constant")


@dataclass(frozen=True)
class Size:
    """model: keys of the base. batch, length: of a training row. far: tokens of the books that are read by position.
    ask: distances and items of the tasks."""

    model: dict[str, Any]
    vocabulary: int
    steps: int
    batch: int
    length: int
    far: int
    ask: tuple[tuple[int, ...], int] = ((0, 1000, 4000), 12)
    lr: float = 1e-3


SIZES = {
    "30m": Size(
        KEYS | dict(d_model=512, heads=8, depth=8, mlp_dim=1408, window=128, segment=128, top_k=4), 8192, 300, 16, 1024, 8192
    ),
    "130m": Size(
        KEYS | dict(d_model=768, heads=12, depth=12, mlp_dim=2816, window=128, segment=128, top_k=4), 16384, 150, 16, 1024, 8192
    ),
    "toy": Size(
        KEYS | dict(d_model=32, heads=2, depth=2, mlp_dim=96, window=8, segment=8, top_k=2), 300, 3, 2, 32, 64, ((0,), 1)
    ),
}  # fmt: skip


def configurations(size: Size, vocabulary: int) -> dict[str, LMConfig]:
    """Arm -> its configuration, with the number of parameters of the base."""
    base = LMConfig.from_dict(size.model | {"vocab_size": vocabulary})
    return {arm.name: configured(base, arm, size.length) for arm in arms(base, size.length) if arm.name in NAMES}


def asked(size: Size, place: Path, device: str, books: list[str]) -> list[dict[str, Any]]:
    """The rows of `told_20` and `repeats`, which are kept beside the model."""
    path = place / "asked.json"
    if not path.is_file():
        model, tokenizer = load(place, chosen_device(device))
        tasks = [make(name) for name in ("told_20", "repeats")]
        write_json(path, evaluate(model, tokenizer, tasks, size.ask[0], 1, size.ask[1], books)["rows"])
    return json.loads(path.read_text("utf-8"))


def main(given: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("text", nargs="+", help="text files and folders to train on")
    parse.add_argument("--test", type=Path, nargs="+", required=True, help="held-out text files and folders")
    parse.add_argument("--folder", type=Path, required=True)
    parse.add_argument("--device", default="auto")
    parse.add_argument("--steps", type=int, help="of each arm")
    parse.add_argument("--slice", type=float, help="minutes after which the command stops with exit code 75")
    parse.add_argument("--arm", choices=NAMES, action="append", help="only this arm; the command without it compares all")
    parse.add_argument("--size", choices=SIZES, default="30m")
    parse.add_argument("--seed", type=int, default=0)
    args = parse.parse_args(given)
    deadline = None if args.slice is None else time.time() + 60 * args.slice
    folder, size = make_folder(args.folder), SIZES[args.size]
    files, tokenizer = texts(size.vocabulary, folder, args.text, args.seed)
    build_corpus(hashed_files(files), tokenizer, folder / "data")
    configs, steps = configurations(size, tokenizer.vocab_size), args.steps or size.steps
    use_threads(None, parameters(configs["gated"]))
    torch.set_float32_matmul_precision("high")
    recipe = Recipe(
        steps=steps, batch=size.batch, length=size.length, span=4 * size.length, lr=size.lr, foreign=0.05, seed=args.seed,
        copies=2, save_every=max(1, min(200, steps // 2)),
    )  # fmt: skip
    books = ["".join(read_blocks(path)) for path in find_files([str(path) for path in args.test])]
    places = {name: folder / name.replace(" ", "-") / str(args.seed) for name in NAMES}
    receipts: dict[str, dict[str, Any]] = {}

    def read(names: Sequence[str]) -> dict[str, Any]:
        """The comparison of some arms; what an arm has read is kept."""
        return compare({x: [places[x]] for x in names}, books, size.far, chosen_device(args.device), keep=folder / "read")

    for name in args.arm or NAMES:
        place = places[name]
        receipt = finished(place, steps)
        if receipt is None:
            (place / "asked.json").unlink(missing_ok=True)
            if deadline is not None and time.time() >= deadline:
                return UNFINISHED
            shared_corpus(folder, place)
            shown = Display()
            shown.name = name
            receipt = train_one(
                lambda vocab, name=name: configs[name].replace(vocab_size=vocab), files, recipe, place, folder / TOKENIZER,
                args.device, shown, deadline,
            )  # fmt: skip
            if receipt["interrupted"]:
                print(f"{name}: step {receipt['steps']:,} is kept", flush=True)
                return 128 + receipt["signal"] if receipt["signal"] else UNFINISHED
        receipts[name] = receipt
        for late in (lambda place=place: asked(size, place, args.device, books), lambda name=name: read([name])):
            if deadline is not None and time.time() >= deadline:
                return UNFINISHED
            late()
    if args.arm:
        return 0
    found = read(NAMES)
    keys = ("steps", "tokens", "seconds", "parameters", "device", "train_bits_per_byte")
    for entry in found["entries"]:
        entry["trained"] = {key: receipts[entry["name"]][key] for key in keys}
        entry["asked"] = asked(size, places[entry["name"]], args.device, books)
    found["command"] = f"python tools/gpu_arms.py TEXT... --test HELD_OUT... --folder build/arms --size {args.size}"
    write_text(folder / "report.html", compare_report(found))
    write_json(folder / "result.json", found)
    print(f"figures: {folder / 'result.json'}, report: {folder / 'report.html'}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SiltstoneError as error:
        sys.exit(f"gpu_arms: error: {error}")
