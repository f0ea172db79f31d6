"""Siltstone's models in EleutherAI's lm-evaluation-harness, and task files for it that need no network.

    python -m siltstone.lm_eval write DIR --run RUN --length 1024 --items 50
    python -m siltstone.lm_eval run RUN --tasks siltstone_babilong_qa1 --include DIR

The harness (the package `lm-eval`) is optional and imported when it is needed. `Scorer` has the three methods of its models.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .config import registry
from .core.plain import json_line
from .demo import run_folder
from .errors import InputError, SiltstoneError
from .eval.run import make
from .eval.tasks.base import Asked, TextTask, random_numbers
from .eval.tasks.reader import Reader
from .inference.session import Session
from .io.atomic import make_folder, write_text
from .models.checkpoint import load

TOKENS = 128  # most new tokens if a request names no number


class Scorer:
    """The requests of the harness on one model. Texts of any length are streamed; a context that repeats is read once."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self._read: tuple[str, Session] | None = None

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): its log-probability in nats, and whether it is the greedy continuation.

        Spaces at the end of a context belong to the continuation. An empty context is the first special token, or a line end.
        """
        return [self._likelihood(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each (text,): the log-probability of the whole text in nats, as one stream."""
        return [float(self._begin().append_scored(request.args[0]).double().sum()) for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, options): the text that the model writes. Options: until, max_gen_toks, do_sample, temperature,
        top_k, top_p; greedy unless `do_sample` is true or a temperature is given."""
        return [self._write(*request.args) for request in requests]

    def _begin(self) -> Session:
        session, tok = Session(self.model, self.tokenizer), self.tokenizer
        first = tok.bos_id if tok.bos_id is not None else tok.eos_id
        session.append("\n" if first is None else [first])
        return session

    def _after(self, context: str) -> Session:
        """A fork of the session that has read the context."""
        if self._read is None or self._read[0] != context:
            session = self._begin()
            session.append(context)
            self._read = (context, session)
        return self._read[1].fork()

    def _likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        short = context.rstrip(" ")
        session, total, greedy = self._after(short), 0.0, True
        for token in self.tokenizer.encode(context[len(short) :] + continuation):
            logits = session.logits
            assert logits is not None
            total += float(torch.log_softmax(logits.float(), -1)[token])
            greedy = greedy and int(logits.argmax()) == token
            session.append([token])
        return total, greedy

    def _write(self, context: str, options: dict[str, Any]) -> str:
        until = options.get("until") or None
        temperature = float(options.get("temperature", 1.0 if options.get("do_sample") else 0.0))
        most, (top_k, top_p) = int(options.get("max_gen_toks", TOKENS)), (options.get("top_k"), options.get("top_p"))
        return "".join(self._after(context).generate(most, temperature, top_k, top_p, until))


def harness(name: str) -> Any:
    """A module of the harness. Raises InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the lm-evaluation-harness cannot be imported ({error}); run `pip install lm-eval`, or install the extra lm_eval"
        ) from None


def model_class() -> type:
    """The class of models for the harness: `simple_evaluate(model=model_class()(model, tokenizer), ...)`."""
    return type("SiltstoneLM", (Scorer, harness("lm_eval.api.model").LM), {"__doc__": Scorer.__doc__})


SCORING = '''"""Scores of the needle tasks."""

from siltstone.eval.tasks.needles import matched


def string_match(doc, results):
    """The share of the wanted values in the answer."""
    return {"string_match": matched(results[0], doc["answers"])}
'''


def write_tasks(folder: Path, reader: Reader, length: int, items: int) -> list[str]:
    """Writes a data file and a task file for every text task that asks questions; returns the names of the tasks.

    length   tokens of a document or of a distance, by the reader's tokenizer
    Questions with candidates are multiple choice; others are answered by generation and scored by string match. Raises InputError
    for a length without room for a task.
    """
    folder, names = make_folder(folder).resolve(), []
    write_text(folder / "siltstone_scoring.py", SCORING)
    for name in registry.members("tasks"):
        task = make(name)
        if not isinstance(task, TextTask):
            continue
        asked = [
            one
            for number in range(items)
            for one in task.questions(reader, length, number, random_numbers(name, "test", 0, length, number))
        ]
        if asked:
            names.append(_written(folder, name, asked))
    return names


def _written(folder: Path, name: str, asked: Sequence[Asked]) -> str:
    """The name of a task whose files were written."""
    data, title = folder / f"{name}.jsonl", f"siltstone_{name}"
    rows: list[dict[str, Any]] = [
        {"text": one.text, "choices": list(one.choices), "answer": list(one.choices).index(one.wanted[0])}
        if one.choices
        else {"text": one.text, "answers": list(one.wanted)}
        for one in asked
    ]
    write_text(data, "".join(json.dumps(row) + "\n" for row in rows))
    lines = ["task: " + title, "dataset_path: json", "dataset_kwargs:", f"  data_files: {{test: {json.dumps(str(data))}}}"]
    lines += ["test_split: test", 'doc_to_text: "{{text}}"', "metadata: {version: 1}"]
    if asked[0].choices:
        lines += ["output_type: multiple_choice", "doc_to_choice: choices", "doc_to_target: answer"]
        lines += ["metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"]
    else:
        lines += ["output_type: generate_until", 'doc_to_target: "{{answers}}"']
        lines += ["generation_kwargs: {until: [], max_gen_toks: 128}"]
        lines += ["process_results: !function siltstone_scoring.string_match"]
        lines += ["metric_list: [{metric: string_match, aggregation: mean, higher_is_better: true}]"]
    write_text(folder / f"{title}.yaml", "\n".join(lines) + "\n")
    return title


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parse = argparse.ArgumentParser(prog="python -m siltstone.lm_eval", description=(__doc__ or "").splitlines()[0])
    commands = parse.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write task files that need no network")
    write.add_argument("folder", type=Path)
    write.add_argument("--run", type=Path, default=Path("demo"), help="run folder whose tokenizer counts the tokens")
    write.add_argument("--length", type=int, default=1024, help="tokens of a document")
    write.add_argument("--items", type=int, default=50, help="items of each task")
    run = commands.add_parser("run", help="evaluate a run folder")
    run.add_argument("run", type=Path)
    run.add_argument("--tasks", required=True, help="names of the harness's tasks, separated by commas")
    run.add_argument("--include", type=Path, help="folder with task files")
    run.add_argument("--limit", type=int, help="items of each task at most")
    args = parse.parse_args(words)
    try:
        model, tokenizer = load(run_folder(args.run))
        if args.command == "write":
            print("\n".join(write_tasks(args.folder, Reader(model, tokenizer), args.length, args.items)))
            return 0
        made = model_class()(model.eval(), tokenizer)
        known = harness("lm_eval.tasks").TaskManager(include_path=args.include and str(args.include))
        found = harness("lm_eval").simple_evaluate(
            model=made, tasks=args.tasks.split(","), limit=args.limit, task_manager=known, bootstrap_iters=1000
        )
    except SiltstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json_line(found["results"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
