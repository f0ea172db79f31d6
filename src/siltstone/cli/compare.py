"""`siltstone compare`: models beside each other on the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from siltstone.cli.arguments import at_least, number, output, path, unset

CONFIGS = (".json", ".toml")


def compare(
    things: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|CONFIG|TEXT…",
            help="Run folders (demo too; a folder with runs 0, 1, ... is one model with several seeds), configurations (JSON or "
            "TOML files), and text files.",
            parser=path,
            show_default=False,
        ),
    ],
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds with which configurations are trained.", parser=at_least(1))] = 1,
    length: Annotated[int, typer.Option(metavar="N", help="Tokens of each part of the texts.", parser=at_least(64))] = 4096,
    train: Annotated[list[Path] | None, unset("Text on which configurations are trained; may be repeated.", path, "PATH")] = None,
    steps: Annotated[int | None, unset("Steps of training of each; default: 1000 without --minutes.", at_least(1), "N")] = None,
    minutes: Annotated[float | None, unset("Minutes of training of each.", number, "MINUTES")] = None,
    match: Annotated[
        bool, typer.Option("--match", help="Choose mlp_dim of configurations so that all have as many parameters as the first.")
    ] = False,
    tokenizer: Annotated[str, typer.Option(metavar="NAME", help="Of configurations: bytes, or a tokenizer.json.")] = "bytes",
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder of trained runs and of the report.", parser=path)] = Path(
        "compare"
    ),
    out: Annotated[Path | None, unset("The report, one HTML file; default: DIR/report.html.", output, "FILE")] = None,
    device: Annotated[str, typer.Option(help="Device; auto: the GPU if there is one.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Compare models on texts: bits per byte by position with paired intervals, state bytes, bytes read and FLOPs a token.

    Differences are to the first model. Configurations are first trained the same way on --train, with each seed; the same
    command again continues an interrupted training. All models must have the same tokenizer.
    """
    import shlex
    import sys

    from siltstone.core.plain import json_line
    from siltstone.eval.compare import compare as compared
    from siltstone.io.atomic import check_place, make_folder, write_text
    from siltstone.report.compare import compare_report
    from siltstone.text import read_blocks
    from siltstone.train.precision import chosen_device

    models, configs, texts = _sorted(things)
    page = out or folder / "report.html"
    make_folder(folder)
    make_folder(page.parent)
    check_place(page)
    if configs:
        trained = _trained(configs, train or [], (steps, minutes, seeds), (folder, tokenizer, device), match)
        models = {name: trained.get(name, runs) for name, runs in models.items()}
    books = ["".join(read_blocks(file)) for file in texts]
    say = lambda said: print(said, file=sys.stderr, flush=True)  # noqa: E731
    found = compared(models, books, length, chosen_device(device), say, folder / "read")
    words = ["siltstone", "compare", *map(str, things), "--length", str(length)]
    if configs:
        words += ["--match"] * match + ["--seeds", str(seeds), *(x for file in train or [] for x in ("--train", str(file)))]
        words += [x for key, value in (("--steps", steps), ("--minutes", minutes)) if value for x in (key, str(value))]
        words += ["--tokenizer", tokenizer, "--folder", str(folder)]
    found["command"] = shlex.join(words)
    write_text(page, compare_report(found))
    if as_json:
        print(json_line(found))
        return
    for entry in found["entries"]:
        last = entry["buckets"][-1]
        reach = "" if last["low"] is None else f" [{last['low']:+.4f}, {last['high']:+.4f}]"
        apart = f"from token {last['from']:,} on {last['difference']:+.4f}{reach} to the first"
        size = f"{entry['costs']['parameters']:,} parameters, {entry['costs']['state_bytes']:,} bytes of state"
        print(f"{entry['name']}: {entry['bits_per_byte']:.4f} bits per byte; {apart}; {size}")
    print(f"report: {page}")


def _sorted(things: list[Path]) -> tuple[dict[str, list[Path]], dict[str, Path], list[Path]]:
    """Models by name in their order (configurations without runs yet), configurations by name, and texts."""
    from siltstone.demo import run_folder
    from siltstone.errors import InputError

    models: dict[str, list[Path]] = {}
    configs: dict[str, Path] = {}
    texts: list[Path] = []
    for thing in things:
        place = run_folder(thing)
        if not place.is_dir() and thing.suffix not in CONFIGS:
            texts.append(thing)
            continue
        name = thing.stem if thing.suffix in CONFIGS and not place.is_dir() else str(thing)
        if name in models:
            raise InputError(f"{name} is given twice; give different runs or configurations")
        models[name] = []
        if not place.is_dir():
            configs[name] = thing
        elif (place / "model.safetensors").exists():
            models[name] = [place]
        else:
            inner = sorted((x for x in place.iterdir() if x.name.isdecimal() and x.is_dir()), key=lambda x: int(x.name))
            models[name] = inner or [place]
    if not models:
        raise InputError("nothing to compare: give at least one run folder or configuration, for example demo")
    if not texts:
        raise InputError("no text was given; name text files that the models were not trained on, after the run folders")
    return models, configs, texts


def _trained(
    configs: dict[str, Path],
    texts: list[Path],
    amount: tuple[int | None, float | None, int],
    way: tuple[Path, str, str],
    match: bool,
) -> dict[str, list[Path]]:
    from siltstone.cli.train import _config_file, _configure
    from siltstone.core.machine import use_threads
    from siltstone.errors import InputError
    from siltstone.eval.arms import matched
    from siltstone.eval.costs import parameters
    from siltstone.train import Recipe
    from siltstone.train.report import Display
    from siltstone.train.same import train_same

    steps, minutes, seeds = amount
    folder, tokenizer, device = way
    if not texts:
        raise InputError(f"{next(iter(configs.values()))} is a configuration; name the text to train on with --train")
    keys = {name: _config_file(file) for name, file in configs.items()}

    def sized(name: str, vocab: int) -> Any:
        return _configure(None, {"vocab_size": vocab, **keys[name]}, True).sized(vocab)

    def of(name: str) -> Any:
        if not match:
            return lambda vocab: sized(name, vocab)
        return lambda vocab: matched(sized(name, vocab), parameters(sized(next(iter(configs)), vocab)))

    recipe = Recipe(steps=1000 if steps is None and minutes is None else steps, minutes=minutes)
    use_threads(None)
    return train_same({name: of(name) for name in configs}, texts, recipe, folder, seeds, tokenizer, device, display=Display)
