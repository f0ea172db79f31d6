"""Trains the model that looks things up, and its two twins: the recurrence without the lookup, and windows alone.

    python tools/train_demo.py TEXT... --folder runs/lookup --device cuda --minutes 40
    until python tools/train_demo.py TEXT... --folder runs/lookup --device cuda --minutes 40 --slice 9; do :; done

Every model is trained in two stages. `base`: rows of repeated strings alone, then text, half of which is made to need memory.
`tuned`: the model `lookup` gets a first layer with cache="blocks", and all three read text beside rows whose strings come again
only beyond the window. All three have the same steps, tokens and, by the width of their MLPs, numbers of parameters. `--minutes`
is the time of the slowest: its steps are timed once, and the plan is kept in the folder, so that the rest depends on no clock.

The same command again continues. Once the first has made its plan, several with different `--model` may share the folder. With
`--slice` it stops after so many minutes with exit code 75, and Ctrl-C loses nothing. The finished models are in FOLDER/models, in
bfloat16, and their figures in FOLDER/result.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from siltstone.config.model import LMConfig
from siltstone.core.machine import use_threads
from siltstone.errors import CheckpointError, ConfigError, SiltstoneError
from siltstone.eval.arms import matched, parameters
from siltstone.io import write_json, write_text
from siltstone.io.atomic import make_folder
from siltstone.models.checkpoint import TOKENIZER, load, save
from siltstone.models.lm import LM
from siltstone.text import Tokenizer, find_files, load_tokenizer
from siltstone.train import Recipe, Trainer
from siltstone.train.corpus import Corpus, build_corpus, hashed_files
from siltstone.train.precision import chosen_device
from siltstone.train.recall_text import write_documents
from siltstone.train.report import Display
from siltstone.train.same import train_one
from siltstone.train.setup import RECEIPT

MODELS, STAGES = ("lookup", "recurrence", "window"), ("base", "tuned")
BASE_SHARE = 0.75  # of the minutes
COPYING = 700  # first steps of the base, at most a quarter of them
UNFINISHED = 75
MEMORY = ("memory", "cache", "segment", "segments")  # keys without effect in a model of windows alone


@dataclass(frozen=True)
class Size:
    """How large everything is.

    model    keys of the recurrence
    blocks   keys of the layer that is put in front of it; `read`: its cache options when it is trained
    rows     batch and length of the base, by the kind of device; of the tuned stage: `few`
    far      tokens of far rows in a step
    """

    model: dict[str, Any]
    blocks: dict[str, Any]
    vocabulary: int = 2048
    rows: dict[str, tuple[int, int]] = field(default_factory=lambda: {"cuda": (16, 2048), "cpu": (8, 512)})
    few: tuple[int, int] = (4, 512)
    far: int = 2304


KEYS = dict(kv_heads=1, short_conv=4, qk_norm=True, memory="gated_delta", cache="none")
BLOCKS = dict(cache="blocks", segments="constant", position="none", router="subblock:2")
SIZES = {
    "full": Size(
        KEYS | dict(d_model=192, heads=3, depth=4, mlp_dim=480, window=128, pattern="wwmw"),
        BLOCKS | dict(segment=32, top_k=16, cache_options=dict(router_queries=8, route_every=16)),
    ),
    "toy": Size(
        KEYS | dict(d_model=32, heads=2, depth=2, mlp_dim=32, window=8, pattern="wm"),
        BLOCKS | dict(segment=8, top_k=4, cache_options=dict(router_queries=8, route_every=16)),
        300, {"cuda": (2, 32), "cpu": (2, 32)}, (2, 16), 96,
    ),
}  # fmt: skip
FINE = dict(router_queries=4, route_every=4)  # cache options of the finished model: blocks are chosen every 4 tokens


def configured(size: Size, name: str, stage: str, vocabulary: int) -> LMConfig:
    """The configuration of a model in a stage; the twins have as many parameters as the finished model."""
    keys = size.model | {"vocab_size": vocabulary}
    grown = keys | {"depth": keys["depth"] + 1, "pattern": "m" + keys["pattern"], "layers": {"0": size.blocks}}
    if name == "lookup":
        return LMConfig.from_dict(grown if stage == "tuned" else keys)
    if name == "window":
        keys = {key: value for key, value in keys.items() if key not in MEMORY} | {"pattern": "w"}
    return matched(LMConfig.from_dict(keys), parameters(LMConfig.from_dict(grown)))


def recipe(size: Size, stage: str, steps: int, device: str, seed: int) -> Recipe:
    """The settings of a stage."""
    batch, length = size.rows["cpu" if chosen_device(device).type == "cpu" else "cuda"] if stage == "base" else size.few
    shared = dict(steps=steps, batch=batch, length=length, foreign=0.05, seed=seed, save_every=max(1, min(200, steps // 4)))
    if stage == "base":
        return Recipe(**shared, span=4 * length, lr=3e-3, copying=min(COPYING, steps // 4), copies=2)
    return Recipe(**shared, lr=3e-4, grown_lr=20 / 3, decay=0.05, warmup=0.02, copies=1, far=size.far)


def texts(vocabulary: int, folder: Path, given: list[str], seed: int) -> tuple[list[Path], Tokenizer]:
    """The given files and those made from them, and the tokenizer, with so many ids. They are made once."""
    files, tokenizer = list(find_files(given)), folder / TOKENIZER
    made = sorted((folder / "text").glob("*.txt"))
    if not tokenizer.is_file():  # it is written last
        shutil.rmtree(folder / "text", ignore_errors=True)
        made = write_documents(files, 0.5, folder / "text", seed)
        write_text(tokenizer, load_tokenizer(f"bpe:{vocabulary}", files).to_json())
    return files + made, load_tokenizer(tokenizer)


def seconds_of(size: Size, stage: str, corpus: Corpus, tokenizer: Tokenizer, device: str) -> float:
    """Seconds of a step of the model that is slowest."""
    settings = recipe(size, stage, 100, device, 0)
    model = LM(configured(size, "lookup", stage, tokenizer.vocab_size)).to(chosen_device(device)).train()
    trainer, began = Trainer(model, corpus, settings, int(stage == "tuned")), 0.0
    trainer.step = settings.copying  # steps with text
    for i in range(9):
        if i == 3:
            began = time.perf_counter()
        trainer.advance(0.5)
    return (time.perf_counter() - began) / 6


def planned(folder: Path, asked: dict[str, Any], size: Size, corpus: Corpus, tokenizer: Tokenizer, device: str) -> dict[str, int]:
    """Steps of each stage: those that the folder's plan has, or those that fit in the minutes. Raises ConfigError for another
    plan than the folder's."""
    path = folder / "plan.json"
    if path.is_file():
        found = json.loads(path.read_text("utf-8"))
        if found["asked"] != asked:
            raise ConfigError(f"{path} was made for {found['asked']}, and this command asks for {asked}; give another --folder")
        return found["steps"]
    steps = asked["steps"]
    if not steps:
        share = {"base": BASE_SHARE, "tuned": 1 - BASE_SHARE}
        each = {stage: seconds_of(size, stage, corpus, tokenizer, device) for stage in STAGES}
        steps = {stage: max(1, math.floor(60 * asked["minutes"] * share[stage] / each[stage])) for stage in STAGES}
    write_json(path, {"asked": asked, "steps": steps})
    return steps


def shared_corpus(folder: Path, run: Path) -> None:
    """The tokenized text in the run's own folder, without a copy where the file system has links."""
    for path in (folder / "data").iterdir():
        place = make_folder(run / "data") / path.name
        if not place.exists():
            try:
                os.link(path, place)
            except OSError:
                shutil.copyfile(path, place)


def finished(place: Path, steps: int) -> dict[str, Any] | None:
    """The receipt of a run that is complete."""
    if not (place / RECEIPT).is_file():
        return None
    receipt = json.loads((place / RECEIPT).read_text("utf-8"))
    return receipt if receipt["steps"] >= steps and not receipt["interrupted"] else None


def export(folder: Path, name: str) -> None:
    """The finished model in bfloat16; the lookup chooses blocks more often than in training."""
    model, tokenizer = load(folder / name / "tuned")
    if name == "lookup":
        keys = model.cfg.to_dict()
        keys["layers"]["0"]["cache_options"] = FINE
        other = LM(LMConfig.from_dict(keys))
        other.load_state_dict(model.state_dict())
        model = other
    save(model, tokenizer, folder / "models" / name, dtype=torch.bfloat16)


def main(given: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("text", nargs="+", help="text files and folders to train on")
    parse.add_argument("--folder", type=Path, required=True)
    parse.add_argument("--device", default="auto")
    parse.add_argument("--minutes", type=float, default=40.0, help="for each model")
    parse.add_argument("--steps", type=int, nargs=2, metavar=("BASE", "TUNED"), help="instead of minutes")
    parse.add_argument("--slice", type=float, help="minutes after which the command stops with exit code 75")
    parse.add_argument("--size", choices=SIZES, default="full")
    parse.add_argument("--model", choices=MODELS, help="only this model; the command without it writes result.json")
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--threads", type=int)
    args = parse.parse_args(given)
    deadline = None if args.slice is None else time.time() + 60 * args.slice
    folder, size = make_folder(args.folder), SIZES[args.size]
    steps = dict(zip(STAGES, args.steps, strict=True)) if args.steps else None
    if args.minutes <= 0 or steps and min(steps.values()) < 1:
        raise ConfigError(f"minutes={args.minutes:g} and steps={args.steps} must be above 0")
    use_threads(args.threads, parameters(configured(size, "lookup", "tuned", size.vocabulary)))
    files, tokenizer = texts(size.vocabulary, folder, args.text, args.seed)
    corpus = build_corpus(hashed_files(files), tokenizer, folder / "data")
    asked = {"size": args.size, "seed": args.seed, "minutes": None if steps else args.minutes, "steps": steps, "key": corpus.key}
    plan, receipts = planned(folder, asked, size, corpus, tokenizer, args.device), {}
    for name in MODELS if args.model is None else (args.model,):
        for stage in STAGES:
            place = folder / name / stage
            receipt = finished(place, plan[stage])
            if receipt is None:
                if deadline is not None and time.time() >= deadline:
                    return UNFINISHED
                print(f"{name}, {stage}: {plan[stage]:,} steps", flush=True)
                shared_corpus(folder, place)
                receipt = train_one(
                    lambda vocab, name=name, stage=stage: configured(size, name, stage, vocab), files,
                    recipe(size, stage, plan[stage], args.device, args.seed), place, folder / TOKENIZER, args.device,
                    Display(), deadline, init=folder / name / "base" if stage == "tuned" else None,
                    grow=stage == "tuned" and name == "lookup",
                )  # fmt: skip
                if receipt["interrupted"]:
                    print(f"{name}, {stage}: step {receipt['steps']:,} is kept", flush=True)
                    return 128 + receipt["signal"] if receipt["signal"] else UNFINISHED
            receipts[name, stage] = receipt
        export(folder, name)
    if args.model is not None:
        return 0
    write_json(folder / "result.json", {"plan": plan, "models": {name: told(receipts, name) for name in MODELS}})
    print(f"the models are in {folder / 'models'}", flush=True)
    return 0


def told(receipts: dict[tuple[str, str], dict[str, Any]], name: str) -> dict[str, Any]:
    """What the result says about a model. Raises CheckpointError if it did not have the tokens of the others."""
    found = [receipts[name, stage] for stage in STAGES]
    for stage, receipt in zip(STAGES, found, strict=True):
        if receipt["tokens"] != receipts[MODELS[0], stage]["tokens"]:
            raise CheckpointError(
                f"{name}, {stage} was trained on {receipt['tokens']:,} tokens, unlike {MODELS[0]}; train it again"
            )
    keys = ("steps", "tokens", "seconds", "train_bits_per_byte", "device", "threads")
    return {"parameters": found[1]["parameters"]} | {key: [receipt[key] for receipt in found] for key in keys}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SiltstoneError as error:
        sys.exit(f"train_demo: error: {error}")
