"""Runs tasks on a model: observations, their means and 95 % intervals, ready for JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..config import registry
from ..errors import CheckpointError, FormatWarning, InputError
from ..io.parse import is_count, parse_object
from ..io.regular import read_limited, reason
from ..models import streaming
from ..models.checkpoint import read_beside
from ..models.streaming import StreamingModel
from ..text import Tokenizer
from ..text.library import quoted
from . import beside
from .beside import Origin
from .intervals import interval
from .tasks.base import UNSCORED, Observation, Task, TextTask, TokenTask, random_numbers
from .tasks.reader import Reader
from .watch import RoutingWatch, answers, watched

TRAINED = "task.json"  # in the run folder of a model that was trained on a token task: its name and options
MOST = 1 << 20  # maximum bytes of that file
ROUTINGS = ("learned", "random", "oracle")
CHUNK = 512  # tokens a call


def make(name: str, options: dict[str, Any] | None = None) -> Task:
    """The task of this name. Raises ConfigError for an unknown one, or for options that it has not."""
    cls = registry.member("tasks", name)
    given = {key: tuple(x) if isinstance(x, list) else x for key, x in (options or {}).items()}
    return cls(registry.options(cls, given) if given else None)


def trained_on(folder: Path) -> dict[str, Any] | None:
    """`{"task", "options", "seed", "routing"}` of a run folder whose model was trained on a token task; None for others.

    Raises CheckpointError for a file that was altered. Warns with FormatWarning for a file of an early version, of which the
    weights do not have the hash.
    """
    data, path = read_beside(folder, TRAINED), folder / TRAINED
    try:
        if data is None:
            early = parse_object(read_limited(path, MOST))
            if "version" in early:  # another model has replaced the one that it belongs to
                return None
            warnings.warn(f"{path} was written by an early version, without a checksum", FormatWarning, stacklevel=3)
        found = early if data is None else parse_object(data)
        if not isinstance(found["task"], str) or not isinstance(found["options"], dict):
            raise ValueError("it does not name a task and its options")
        if not is_count(found["seed"]) or found["routing"] not in ROUTINGS:
            raise ValueError("its seed or its routing is missing")
        make(found["task"], found["options"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be used: {quoted(reason(error))}; train the model again") from error
    return found


def observe_tokens(
    model: StreamingModel,
    task: TokenTask,
    length: int,
    rows: int,
    by: np.random.Generator,
    watch: RoutingWatch | None = None,
) -> list[Observation]:
    """Shares of right answers of `rows` streams: whole streams by length and load, by distance in powers of two, and
    by depth of the answer in the stream (per cent); and the nats of answers by position in powers of two.

    With `watch`, also the "routing hit": the share of questions, over layers, whose answer's segment was chosen, among those
    whose answer is in a checkpoint. A stream is one independent observation, as its questions are not independent. Streams are
    read in calls of 512 tokens.
    """
    made = task.batch(rows, length, by)
    ids, state, found = torch.from_numpy(made.ids).to(model.like.device), None, []
    where, hits = answers(made), [list[float]() for _ in range(rows)]
    targets, nats = torch.from_numpy(made.targets).to(ids.device), []
    with torch.no_grad():
        for first in range(0, length, CHUNK):
            part = slice(first, first + CHUNK)
            if watch is not None:
                watch.tell(where[:, part], first)
            logits, state = streaming.logits(model, ids[:, part], state)
            scores = logits[..., : task.vocab_size].float()
            found.append(scores.argmax(-1).cpu().numpy())
            cost = F.cross_entropy(scores.flatten(0, 1), targets[:, part].flatten(), reduction="none", ignore_index=UNSCORED)
            nats.append(cost.view(rows, -1).cpu().numpy())
            for row, _, hit in watch.take() if watch is not None else ():
                hits[row].append(hit)
    if watch is not None:
        watch.tell(None)
    asked, right, cost = made.targets != UNSCORED, np.concatenate(found, 1) == made.targets, np.concatenate(nats, 1)
    place = np.broadcast_to(np.arange(length), asked.shape)
    out = []
    for r in range(rows):
        at: dict[str, int | str] = {"length": length, "load": int(made.load[r])}
        out.append(Observation("right", float(right[r][asked[r]].mean()), at))
        if hits[r]:
            out.append(Observation("routing hit", float(np.mean(hits[r])), at))
        located = asked[r] & (made.distance[r] > 0)
        depth = 25 * np.round(4 * where[r] / max(1, length - 1)).astype(np.int64)
        for score, values, groups, key in (
            ("right by distance", right[r], np.where(located, _power(made.distance[r]), -1), "distance from"),
            ("right by depth", right[r], np.where(located, depth, -1), "depth"),
            ("nats by position", cost[r], np.where(asked[r], _power(place[r]), -1), "position"),
        ):
            for group in sorted({int(x) for x in groups if x >= 0}):
                more = {"load": at["load"]} if key == "distance from" else {}
                value = float(values[groups == group].mean())
                out.append(Observation(score, value, {"length": length, **more, key: group}))
    return out


def observe_loads(
    model: StreamingModel, task: TokenTask, length: int, rows: int, seed: int, *, watch: RoutingWatch | None = None
) -> list[Observation]:
    """`observe_tokens` on `rows` test streams of each load of the task."""
    by = random_numbers(task.name, "test", seed, length)
    return [one for single in task.by_load() for one in observe_tokens(model, single, length, rows, by, watch)]


def _power(x: np.ndarray) -> np.ndarray:
    """The largest power of two that is not above x; 1 for 0."""
    return 2 ** np.floor(np.log2(np.maximum(1, x))).astype(np.int64)


def summary(task: Task, seeds: Sequence[int], found: Sequence[tuple[int, Observation]]) -> list[dict[str, Any]]:
    """A row for each score at each point: mean, interval, the means of the seeds, number of observations."""
    groups: dict[str, list[tuple[int, Observation]]] = {}
    for seed, one in found:
        groups.setdefault(json.dumps([one.score, one.at], sort_keys=True), []).append((seed, one))
    rows = []
    for group in groups.values():
        values = [one.value for _, one in group if np.isfinite(one.value)]
        if not values:
            continue
        method, low, high = interval(values)
        each = {seed: [one.value for s, one in group if s == seed and np.isfinite(one.value)] for seed in seeds}
        first = group[0][1]
        rows.append(
            {
                "task": task.name,
                "score": first.score,
                "at": first.at,
                "mean": float(np.mean(values)),
                "low": low if np.isfinite(low) else None,
                "high": high if np.isfinite(high) else None,
                "interval": method,
                "count": len(values),
                "seeds": {str(seed): float(np.mean(x)) for seed, x in each.items() if x},
            }
        )
    return rows


def evaluate(
    model: StreamingModel,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    lengths: Sequence[int] | None = None,
    seeds: int = 3,
    items: int = 10,
    books: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
    routing: str = "learned",
    origin: Origin | None = None,
    arms: Sequence[str] = (),
) -> dict[str, Any]:
    """`{"tasks": [{"name", "kind", "about", "chance", "lengths"}], "seeds", "items", "rows": [...]}`, ready for JSON.

    lengths  tokens of documents, or of distances (None: the levels of each task)
    seeds    seeds of the data, 0 to seeds - 1
    items    documents, or streams, of each seed and length
    books    texts that fill documents; generated prose without them
    routing  "oracle": token tasks tell the model's routers the segment of each answer
    origin   the decoder that an imported model was; None: another model
    arms     other forms of the model (`siltstone.eval.beside`), with "arm" in their rows, for the tasks that can be compared

    Raises InputError if a token task has more ids than the model, and if a length has no room for a task.
    """
    reader, rows, told = Reader(model, tokenizer, books), [], []
    tokens = any(isinstance(task, TokenTask) for task in tasks)
    watch = watched(model, routing) if tokens else None
    try:
        for task in tasks:
            chosen = list(task.levels if lengths is None else lengths)
            facts = {"name": task.name, "kind": task.kind, "about": (type(task).__doc__ or "").split("\n")[0]}
            told.append(facts | {"chance": task.chance, "lengths": chosen})
            found: list[tuple[int, Observation]] = []
            for length in chosen:
                reader.largest = 0
                for seed in range(seeds):
                    say(f"{task.name}, length {length:,}, seed {seed}")
                    found += [(seed, one) for one in _observed(model, reader, task, (length, seed, items), watch)]
                for arm in arms if isinstance(task, TextTask) and task.compared else ():
                    other = beside.reader(reader, origin, arm, length)
                    for seed in range(seeds):
                        say(f"{task.name}, length {length:,}, seed {seed}, {arm}")
                        mine = _observed(other.model, other, task, (length, seed, items), None)
                        found += [(seed, replace(one, at=one.at | {"arm": arm})) for one in mine]
            rows += summary(task, range(seeds), found)
    finally:
        if watch is not None:
            watch.close()
    return {"tasks": told, "seeds": seeds, "items": items, "rows": rows}


def _observed(
    model: StreamingModel, reader: Reader, task: Task, point: tuple[int, int, int], watch: RoutingWatch | None
) -> list[Observation]:
    length, seed, items = point
    if isinstance(task, TokenTask):
        if task.vocab_size > model.cfg.vocab_size:
            raise InputError(
                f"the task {task.name} has {task.vocab_size} ids and the model {model.cfg.vocab_size}; "
                "give a model that was trained on the task"
            )
        return observe_loads(model, task, length, items, seed, watch=watch)
    if not isinstance(task, TextTask):
        raise InputError(f"{task.name} is neither a token task nor a text task; derive it from one of them")
    by = [random_numbers(task.name, "test", seed, length, item) for item in range(items)]
    return [one for item in range(items) for one in task.observe(reader, length, item, by[item])]
