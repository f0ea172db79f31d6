"""`siltstone train`: trains a model on text and writes its folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from siltstone.cli import arguments
from siltstone.cli.arguments import THREADS, at_least, integer, number, path, text


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, show_default=False, **more)


def _whole(text: str) -> Any:
    return _option(text, parser=integer)


def _number(text: str) -> Any:
    return _option(text, parser=number)


SEED = "Seed of the initial weights and of the order of the text. [default: 0]"
LARGEST = 1 << 20  # maximum bytes of a configuration file
RESUME = "Resume the run in --out from its last checkpoint, with its settings and texts; if there is no run, begin one."
RUN_THREADS = f"{THREADS.removesuffix(']')}; with --resume the number that the run began with]"
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH", help="Text files, folders of them, or - for standard input.", parser=text, show_default=False),
]


def train(
    paths: Texts = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run and of the trained model.", metavar="FOLDER", parser=path)
    ] = Path("run"),
    preset: Annotated[str | None, _option("nano, tiny, small, base or large. [default: tiny]")] = None,
    config: Annotated[
        Path | None, _option("JSON or TOML file with keys of the model's configuration.", metavar="FILE", parser=path)
    ] = None,
    settings: Annotated[
        list[str] | None, _option("One key of the configuration; may be repeated.", "--set", metavar="KEY=VALUE")
    ] = None,
    parameters: Annotated[
        int | None, _option("Choose mlp_dim so that the model has about as many parameters.", metavar="N", parser=at_least(1))
    ] = None,
    tokenizer: Annotated[
        str | None, _option("bytes, bpe:8192 (trained on the text) or a tokenizer.json. [default: bytes]", parser=text)
    ] = None,
    valid: Annotated[
        list[str] | None,
        _option("Held-out file or folder, removed from the training text; may be repeated.", metavar="PATH", parser=text),
    ] = None,
    init: Annotated[
        Path | None,
        _option(
            "Begin with the weights of this run folder (or demo, lookup), whose model has the same shapes; its configuration and "
            "tokenizer are used unless others are given.",
            metavar="RUN",
            parser=path,
        ),
    ] = None,
    grow: Annotated[
        bool,
        typer.Option(
            "--grow", help="The model has more layers than that of --init: new ones in front, which begin without any effect."
        ),
    ] = False,
    recall: Annotated[
        float | None,
        _number("Share of the text that is made from it so that it needs memory: passages, facts and lists that come again."),
    ] = None,
    copying: Annotated[int | None, _whole("First steps, on rows of repeated strings alone. [default: 0]")] = None,
    copies: Annotated[int | None, _whole("Rows of repeated strings beside the text in later steps. [default: 0]")] = None,
    dense: Annotated[
        float | None,
        _number("Share of the run in which cache=sparse reads every checkpoint; then, in as long again, fewer. [default: 0]"),
    ] = None,
    routing_loss: Annotated[
        float | None,
        _number("Weight of the cost by which a sparse choice learns what is in checkpoints; needs --dense. [default: 0]"),
    ] = None,
    window_dropout: Annotated[
        float | None, _number("Share of steps in which memory layers leave out their window. [default: 0]")
    ] = None,
    random_windows: Annotated[
        float | None,
        _number("Share of steps in which memory layers see a part of their window, of a random width. [default: 0]"),
    ] = None,
    far: Annotated[
        int | None,
        _whole("Tokens, beside the text in later steps, in rows that repeat strings from beyond the window. [default: 0]"),
    ] = None,
    grown_lr: Annotated[
        float | None, _number("Learning rate of the layers that --grow adds, as a multiple of --lr. [default: 1]")
    ] = None,
    steps: Annotated[int | None, _whole("Number of steps. [default: 1000, without --minutes]")] = None,
    minutes: Annotated[float | None, _number("Training time; the learning rate then depends on the time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is in --out, at the first checkpoint of the new run.")
    ] = False,
    seed: Annotated[int | None, _option(SEED, parser=arguments.seed)] = None,
    batch: Annotated[int | None, _whole("Rows in a batch. [default: 8]")] = None,
    length: Annotated[int | None, _whole("Tokens of a row in a step; gradients reach no further back. [default: 512]")] = None,
    span: Annotated[int | None, _whole("Longer documents are split into parts of so many tokens. [default: 16 x length]")] = None,
    foreign: Annotated[
        float | None,
        _option(
            "Share of documents that begin from the final state of another row instead of an empty one. The model then learns "
            "to forget text that does not belong to its document. [default: 0.1]",
            "--foreign-state",
            parser=number,
        ),
    ] = None,
    lr: Annotated[float | None, _number("Peak learning rate. [default: 0.003]")] = None,
    warmup: Annotated[float | None, _number("Share of the run in which the learning rate rises. [default: 0.03]")] = None,
    decay: Annotated[float | None, _number("Weight decay of matrices. [default: 0.1]")] = None,
    clip: Annotated[float | None, _number("Maximum norm of the gradient. [default: 1]")] = None,
    save_every: Annotated[int | None, _whole("Steps between checkpoints. [default: 100]")] = None,
    valid_every: Annotated[int | None, _whole("Steps between validations. [default: 200]")] = None,
    valid_tokens: Annotated[int | None, _whole("Tokens in a validation. [default: 65536]")] = None,
    precision: Annotated[
        str | None, _option("auto (bfloat16 if the hardware supports it), fp32 or bf16. [default: auto]")
    ] = None,
    recompute: Annotated[
        str | None,
        _option(
            "none, or segment: less memory for a long --length, at the cost of one more forward pass; short segments make many "
            "small calls, and one state is kept for each call. [default: none]"
        ),
    ] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, ... [default: auto]")] = None,
    log: Annotated[
        list[str] | None,
        _option("Also write the figures to tensorboard or trackio (extra: log); may be repeated.", metavar="NAME"),
    ] = None,
    threads: Annotated[int | None, _option(RUN_THREADS, parser=integer)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as one JSON object, also if interrupted.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the receipt.")] = False,
) -> None:
    """Train a language model on text.

    An interrupted run resumes with --resume; the result is the same as without the interruption. Ctrl-C, SIGTERM and SIGHUP save
    a checkpoint.
    With --resume no other option is needed: settings and texts are those of the run. If text, --tokenizer, --batch, --length,
    --span, --foreign-state, --seed or the model's configuration are given, they must be the same as before; other settings may
    change.
    """
    from siltstone.cli.guard import hold
    from siltstone.config.setting import parse_setting
    from siltstone.core.machine import check_threads, keep_freed_memory, threads_said, use_threads
    from siltstone.core.plain import json_line
    from siltstone.core.terminal import say, shown
    from siltstone.demo import run_folder
    from siltstone.errors import ConfigError
    from siltstone.eval.arms import matched
    from siltstone.models.checkpoint import TOKENIZER
    from siltstone.train import Recipe, begin, can_resume, check_same, fit, take_up
    from siltstone.train.report import Display, receipt_lines
    from siltstone.train.resume import reached
    from siltstone.train.setup import UNKNOWN
    from siltstone.train.sinks import check_sinks

    given: dict[str, Any] = {
        "steps": steps, "minutes": minutes, "seed": seed, "batch": batch, "length": length, "span": span, "foreign": foreign,
        "lr": lr, "warmup": warmup, "decay": decay, "clip": clip, "save_every": save_every, "valid_every": valid_every,
        "valid_tokens": valid_tokens, "precision": precision, "recompute": recompute, "copying": copying, "copies": copies,
        "dense": dense, "routing_loss": routing_loss, "window_dropout": window_dropout,
        "random_windows": random_windows, "far": far, "grown_lr": grown_lr,
    }  # fmt: skip
    check_threads(threads)
    check_sinks(log or [])
    "\0".join([str(out), *(paths or []), *(valid or [])]).encode("utf-8")  # names are stored as UTF-8; `guard` reports an error
    given = {key: value for key, value in given.items() if value is not None}
    keys = (_config_file(config) if config else {}) | dict(map(parse_setting, settings or []))
    init = None if init is None else run_folder(init)
    if grow and init is None:
        raise ConfigError("--grow adds layers to the model of --init, and --init is missing; name its run folder")

    if parameters is not None and "mlp_dim" in keys:
        raise ConfigError("--parameters chooses mlp_dim, which is given too; leave one of them out")
    built: list[Any] = []

    def configure(vocab: int) -> Any:
        """The configuration. It is built once; the number of token ids is changed when it is known."""
        if not built:
            whole = _configuration_of(init) if init and preset is None and not config else {}
            built.append(_configure(preset, {"vocab_size": vocab, **whole, **keys}, bool(config or whole)))
        cfg = built[0] if "vocab_size" in keys else built[0].sized(vocab)
        return cfg if parameters is None or vocab == UNKNOWN else matched(cfg, parameters)

    def sized(vocab: int) -> Any:
        """The configuration; also sets the number of threads for a model of this size."""
        cfg = configure(vocab)
        use_threads(threads, _parameters(cfg))
        return cfg

    if resume and can_resume(out):
        run = take_up(out, given, threads, device)
        hold(contextlib.closing(run))
        if recall is not None:
            raise ConfigError("recall cannot be given with --resume: the text of the run is used; leave it out")
        if init is not None and (run.init is None or Path(run.init["folder"]) != init):
            raise ConfigError(f"init={init} cannot change in a resumed run; leave --init out, or begin a new run")
        check_same(run, paths or [], valid, tokenizer, configure if preset or config or settings else None, keys)
        use_threads(threads, recorded=run.threads)
    else:
        if resume and not paths:
            raise ConfigError(f"{out} has no run to resume; name the text to train on, or another --out")
        if resume:
            say(f"{out} has no run to resume; a new run begins there")
        if steps is None and minutes is None:
            given["steps"] = 1000
        text: str | Path = tokenizer or ("bytes" if init is None else init / TOKENIZER)
        recipe = Recipe(**given)
        run = begin(
            out, paths or [], sized, recipe, text, valid=valid or [], device=device or "auto", overwrite=overwrite, init=init,
            recall=recall, grow=grow,
        )  # fmt: skip
        hold(contextlib.closing(run))
    keep_freed_memory()
    begun = reached(run.checkpoint)[0] if run.checkpoint.exists() else 0
    receipt = fit(run, Display(quiet), log or [])
    if as_json:
        print(json_line(receipt), flush=True)
    if receipt["interrupted"]:
        say(f"interrupted; step {receipt['steps']} is saved; resume with --resume --out {out}")
        raise SystemExit(128 + receipt["signal"])
    if receipt["steps"] == begun:
        say(f"the run had reached its end, step {receipt['steps']:,}: nothing was trained; give more --steps or --minutes")
    for line in receipt_lines(receipt, threads_said()) if not as_json else []:
        print(shown(line, sys.stdout))


def _parameters(cfg: Any) -> int:
    """Number of parameters of a model, without allocating it."""
    import torch

    from siltstone.models.lm import LM

    with torch.device("meta"):
        return LM(cfg).parameters_count


def _configuration_of(folder: Path) -> dict[str, Any]:
    """The keys of the model in a run folder, without those that are at their defaults."""
    from siltstone.config.keys import overrides
    from siltstone.models.checkpoint import read

    return overrides(read(folder)[0])


def _configure(preset: str | None, keys: dict[str, Any], whole: bool) -> Any:
    """The model's configuration: the preset's keys, then the file's, then those of --set. whole: a file was given, which may
    describe a whole model without a preset."""
    from siltstone.config import presets
    from siltstone.config.model import LMConfig

    if preset is None and "d_model" in keys and whole:
        return LMConfig.from_dict(keys)
    return presets.get(preset or "tiny", **keys)


def _config_file(path: Path) -> dict[str, Any]:
    import tomllib

    from siltstone.errors import ConfigError
    from siltstone.io.parse import parse_json
    from siltstone.io.regular import read_limited, reason

    try:
        data = read_limited(path, LARGEST)
        keys = tomllib.loads(data.decode("utf-8")) if path.suffix == ".toml" else parse_json(data)
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"config file {path} cannot be read: {reason(error)}") from error
    if not isinstance(keys, dict):
        raise ConfigError(f"config file {path} must have keys and values, and it has a {type(keys).__name__}")
    return keys
