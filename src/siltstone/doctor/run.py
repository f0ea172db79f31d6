"""An examination: the text, the three parts, the findings, and the report."""

from __future__ import annotations

import copy
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..config.model import LMConfig
from ..core.machine import threads_said
from ..core.version import VERSION
from ..demo.text import reading
from ..errors import DataError, InputError
from ..inference.describe import described_model
from ..io import write_text
from ..io.atomic import check_place
from ..models.checkpoint import load
from ..models.lm import LM
from ..models.streaming import StreamingModel
from ..ops.upcast import upcast
from ..text import Tokenizer, read_blocks, split_text
from ..train.precision import chosen_device
from . import report
from .answered import LAST, answered
from .cuts import cut_as_sessions_do
from .equality import TOLERANCE, WAYS, compare
from .findings import all_findings, equality_findings, recent, worst_first
from .findings_of_parts import part_findings, told_findings
from .gates import EXAMPLES, survey
from .gradient import PLACES, profile
from .progress import Steps
from .record import Record
from .told import probe

LEAST = 16  # minimum tokens of a text
EQUAL = 256  # tokens for a model that is not an `LM`
CUTS, SURVEYED = 4.5, 8.5  # number of segments that are read for equality and for the gates


def lengths(cfg: LMConfig, tokens: int | None = None) -> tuple[int, int, int]:
    """Number of tokens for equality, for the gates and for the gradient: several segments, and several times window and segment;
    `tokens` for each if it is given."""
    layer = cfg.layer
    away = layer.delay + layer.sinks + layer.rate
    segment = layer.segment if "memory" in cfg.kinds else layer.window
    wanted = (away + int(CUTS * segment), away + int(SURVEYED * segment), 4 * recent(cfg))
    return tuple(max(LEAST, n if tokens is None else tokens) for n in wanted)  # type: ignore[return-value]


def examine(
    model: StreamingModel,
    tokenizer: Tokenizer,
    ids: Sequence[int] | np.ndarray,
    seed: int = 0,
    tokens: int | None = None,
    steps: Steps | None = None,
    told: Sequence[int] = (),
) -> Record:
    """Examines a model on the ids of a text: at least 16 tokens; `tokens_wanted` is the number that can be used. For a model that
    is not an `LM`, only the ways of reading are compared, as its layers are not known.

    tokens   number of tokens that each part reads (default: see `lengths`)
    told     distances, in tokens, at which a told name is asked for (see `told`): each text is read twice
    Raises InputError for a text that is too short, and for a model that is not in float32 or float64. The model is not changed.
    """
    wanted = tokens_wanted(model.cfg, tokens) if isinstance(model, LM) else tokens or EQUAL
    if model.like.dtype not in TOLERANCE:
        raise InputError(f"model is in {model.like.dtype}, in which rounding hides differences; examine model.float()")
    if len(ids) < LEAST:
        raise InputError(f"the text has {len(ids)} tokens; give a text of at least {LEAST}, or better {wanted:,}")
    steps, record = steps or Steps(quiet=True), Record()
    exact: Any = copy.deepcopy(model)
    exact.double().requires_grad_(False)
    row = torch.as_tensor(np.asarray(ids), dtype=torch.long, device=model.like.device)[None]
    most = lengths(model.cfg, tokens) if isinstance(model, LM) else (wanted, 0, 0)
    one, many, far = (min(n, row.shape[1]) for n in most)
    with cut_as_sessions_do(model, tokenizer), cut_as_sessions_do(exact, tokenizer):
        for lm in (model, exact):
            steps.begin(f"reading {one:,} tokens in {len(WAYS)} ways, {str(lm.like.dtype).removeprefix('torch.')}", len(WAYS))
            for check in compare(lm, tokenizer, row[:, :one], seed):
                record.checks.append(check)
                steps.tick()
        if not isinstance(model, LM):
            return _of_another_kind(model, record, one, seed)
        steps.begin(f"gates, over {many:,} tokens", many)
        rows = min(EXAMPLES, row.shape[1] // many)
        record.gates = survey(model, row[0, : rows * many].view(rows, many), steps.tick)
        steps.begin(f"which parts answer, over {many:,} tokens", min(LAST, many - 1))
        record.answered = answered(model, row[:, :many], steps.tick)
        steps.begin(f"gradients, back over {far:,} tokens", 2 * PLACES)
        record.gradient = profile(exact, row[:, :far], seed, steps.tick)
        bits = _bits(model, row[:, :one])
    if told:
        steps.begin(f"a told name, asked for at {', '.join(f'{n:,}' for n in told)} tokens", len(told))
        record.told = probe(model, tokenizer, told, tick=steps.tick)
    found = all_findings(model.cfg, record.checks, record.gates, record.gradient)
    record.findings = worst_first([*found, *part_findings(record.answered), *told_findings(record.told)])
    record.facts = {
        "model": f"{model.parameters_count:,} parameters: {described_model(model.cfg)}",
        "layers": [_layer(model.cfg, i, kind) for i, kind in enumerate(model.cfg.kinds)],
        "tokens": {"equality": one, "gates": rows * many, "gradient": far},
        "seed": seed,
        "window": model.cfg.layer.window,
        "delay": model.cfg.layer.delay,
        "segment": model.cfg.layer.segment,
        "bits_per_token": bits,
        "siltstone": VERSION,
        "machine": f"{threads_said()}, {row.device.type}, torch {torch.__version__}, {platform.machine()}",
    }
    return record


def _of_another_kind(model: StreamingModel, record: Record, tokens: int, seed: int) -> Record:
    """The record of a model that is not an `LM`: only whether its ways of reading agree."""
    record.findings = equality_findings(record.checks)
    record.facts = {"model": type(model).__name__, "tokens": {"equality": tokens}, "seed": seed, "siltstone": VERSION}
    return record


def tokens_wanted(cfg: LMConfig, tokens: int | None = None) -> int:
    """Number of tokens of text that an examination can use."""
    one, many, far = lengths(cfg, tokens)
    return max(one, EXAMPLES * many, far)


@torch.no_grad()
def _bits(model: LM, ids: torch.Tensor) -> float:
    logits = upcast(model(ids)[0])
    return float(F.cross_entropy(logits[0, :-1], ids[0, 1:])) / math.log(2)


def _layer(cfg: LMConfig, number: int, kind: str) -> str:
    """A layer in words."""
    if kind != "memory":
        return f"layer {number}: {kind}, no memory"
    layer = cfg.layer_configs[number]
    gates = "" if layer.members.cache.cls.routed else ", no gates"
    return f"layer {number}: {layer.memory} memory, {layer.cache} cache{gates}"


def diagnose(
    run: Path,
    text: Path | None,
    tokens: int | None,
    seed: int,
    out: Path,
    device: str = "auto",
    quiet: bool = False,
    told: Sequence[int] = (),
) -> Record:
    """Examines the run in the folder `run` and writes the report to `out`.

    text   a file; None: the text of `siltstone demo`
    Raises CheckpointError for an unusable run, DataError for an unusable text, ConfigError, StorageError.
    """
    began = time.perf_counter()
    check_place(out)
    model, tokenizer = load(run, device=chosen_device(device))
    wanted = tokens_wanted(model.cfg, tokens)
    if text is None:
        found = reading(tokenizer, wanted, run)
        ids, source = found.ids, found.source
    else:
        ids, source = _ids(tokenizer, text, wanted), text.name
    if len(ids) < LEAST:
        raise DataError(f"{source} has {len(ids)} tokens; give a text of at least {LEAST}, or better {wanted:,}")
    with Steps(quiet) as steps:
        record = examine(model, tokenizer, ids, seed, tokens, steps, told)
    record.facts = {"run": run.name, "text": f"{source}, {len(ids):,} tokens"} | record.facts
    record.facts["seconds"] = round(time.perf_counter() - began, 1)
    write_text(out, report.page(record))
    return record


def _ids(tokenizer: Tokenizer, text: Path, wanted: int) -> np.ndarray:
    """The first tokens of a file. Raises DataError."""
    ids: list[int] = []
    for piece in split_text(read_blocks(text), tokenizer=tokenizer):
        ids += tokenizer.encode(piece)
        if len(ids) >= wanted:
            break
    return np.array(ids[:wanted], np.int64)
