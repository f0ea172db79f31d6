"""What the documents show is run: snippets with their output, commands, and the examples for contributors."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import typer

import siltstone as st
from siltstone.cli.app import app
from siltstone.config import registry
from siltstone.demo import text
from siltstone.inference.describe import describe

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks of a page that name their language."""
    return [(m[1], m[2]) for m in BLOCK.finditer((ROOT / page).read_text("utf-8"))]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
def test_snippets_run_and_print_what_their_page_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    found, names, shown = blocks(page), {}, 0
    assert sum(language == "python" for language, _ in found) >= {"README.md": 1, "docs/library.md": 3}[page]
    for (language, code), (follower, wanted) in zip(found, [*found[1:], ("", "")], strict=True):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)  # later snippets go on from earlier ones
        if follower == "text":
            shown += 1
            assert printed.getvalue() == wanted
    assert shown or page != "README.md"


def test_the_readme_is_short_and_shows_every_folder() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    assert page.count("\n") <= 150
    tree = next(code for language, code in blocks("README.md") if language == "text" and code.startswith("src/siltstone/"))
    shown = {*re.findall(r"\b(\w+)/", tree)}
    folders = {path.name for path in (ROOT / "src/siltstone").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= shown and {path for path in shown if path not in folders} <= {
        "src", "siltstone", "tests", "oracle", "contract", "docs", "examples", "tools"
    }  # fmt: skip


def test_the_readmes_figures_are_those_of_the_benchmarks() -> None:
    page, measured = (ROOT / "README.md").read_text("utf-8"), (ROOT / "docs/benchmarks.md").read_text("utf-8")
    rows = page[page.index("| baseline |") :].split("\n\n")[0].splitlines()[2:]
    figures = [figure for row in rows for figure in re.split(r"[;,] (?=\d)", row.split("|")[3].strip())]
    assert len(figures) >= 12 and not [figure for figure in figures if figure not in measured]


def test_the_ways_through_the_code_are_short_and_real() -> None:
    page = (ROOT / "docs/how-it-works.md").read_text("utf-8")
    token, key = (re.findall(r"^\d\. `src/siltstone/([\w/.]+)`", part, re.M) for part in page.split("\n### ")[1:3])
    assert 4 <= len(token) <= 6 and 4 <= len(key) <= 8
    seen: set[str] = set()
    model = st.LM(st.presets.nano(300, d_model=16, heads=2, depth=1, window=4, segment=4))
    ids = torch.zeros(1, 42, dtype=torch.int64)  # the next write ends no segment
    _, state = model(ids)

    def enter(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(enter)
    try:
        with torch.no_grad():
            model(ids[:, :1], state)
    finally:
        sys.setprofile(before)
    passed = {Path(name).relative_to(ROOT / "src/siltstone").as_posix() for name in seen if str(ROOT / "src/siltstone") in name}
    assert {*token} <= passed
    assert all("top_k" in (ROOT / "src/siltstone" / name).read_text("utf-8") for name in key if name.startswith("cache/"))


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number, topic in enumerate(text._manual()):
        if number < 40:
            (tmp_path / "texts" / f"{number}.txt").write_text(topic, "utf-8")
    (tmp_path / "long.txt").write_text("\n".join(text._manual())[:20_000], "utf-8")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    lines = "".join(code for language, code in blocks("README.md") if language == "console").replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ siltstone ")]
    assert {words[1] for words in commands} >= {"train", "generate", "stream", "inspect"}
    for words in commands:
        fewer = ["--tokens", "100"] if words[1] == "doctor" else []  # than a user's, for time
        done = subprocess.run(
            [sys.executable, "-m", *words, *fewer], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, (words, done.stderr)


def test_the_readme_names_every_command_and_its_targets_exist() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    group = typer.main.get_command(app)
    assert not [name for name in group.commands if f"siltstone {name}" not in page]  # type: ignore[attr-defined]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {"demo", "test"} <= {*re.findall(r"make (\w+)", page)}
    assert not [target for target in re.findall(r"`make (\w+)`", page) if f"\n{target}:" not in makefile]


PAGES = ["README.md", "CONTRIBUTING.md", "examples/README.md", "docs"]
MARKDOWN = [path for page in PAGES for path in ((ROOT / page).rglob("*.md") if page == "docs" else [ROOT / page])]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in sorted(MARKDOWN)])
def test_links_lead_somewhere(page: str) -> None:
    content = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"|srcset=\"([^\"]+)\"", content)
    targets = [target for groups in links for target in groups if target and "://" not in target]
    assert not [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    places = re.findall(r"\]\(([^):#]*)#([^)]+)\)", content)
    missing = [place for place in places if place[1] not in anchors((ROOT / page).parent / place[0] if place[0] else ROOT / page)]
    assert not missing
    paths = re.findall(r"`((?:src|docs|tests|tools)/[\w/.-]+)`", content)
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_all_decisions_are_listed() -> None:
    page = (ROOT / "docs/README.md").read_text("utf-8")
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        assert f"[{title}](decisions/{path.name})" in page


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files that CONTRIBUTING.md shows, as if they stood in their folders."""
    code = [content for language, content in blocks("CONTRIBUTING.md") if language == "python"]
    for family, name, content in zip(("memory", "cache", "bank"), ("retention", "average", "doubling"), code, strict=True):
        (tmp_path / family).mkdir()
        (tmp_path / family / f"{name}.py").write_text(content, "utf-8")
        package = importlib.import_module(f"siltstone.{family}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / family)])
    registry.members.cache_clear()
    yield
    registry.members.cache_clear()
    for name in ("siltstone.memory.retention", "siltstone.cache.average", "siltstone.bank.doubling"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("segments", ["constant", "logarithmic"])
@pytest.mark.parametrize(("memory", "cache"), [("retention", "gated"), ("gated", "average"), ("retention", "average")])
def test_a_rule_and_a_policy_are_one_file_each(examples: None, memory: str, cache: str, segments: str) -> None:
    layer = st.MemoryCaching(d_model=8, heads=2, memory=memory, cache=cache, segment=4, segments=segments, window=3).double()
    x, state, parts = torch.randn(2, 40, 8, dtype=torch.float64), None, []
    mask = torch.rand(2, 40) < 0.8
    whole, _ = layer(x, mask=mask)
    for t in range(40):
        y, state = layer(x[:, t : t + 1], state, mask=mask[:, t : t + 1])
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], rtol=1e-9, atol=1e-9)


def test_the_retention_of_the_example_is_its_equation(examples: None) -> None:
    torch.manual_seed(0)
    keys = {"d_model": 8, "heads": 2, "memory": "retention", "cache": "none", "segment": 4, "window": 0, "write_delay": 0}
    layer = st.MemoryCaching(**keys).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    _, state = layer(x)
    memory = layer.mix.memory
    inputs = memory.inputs(x)
    decay = 1 - 2.0 ** -(5 + torch.arange(2, dtype=torch.float64))
    wanted = torch.zeros(2, 4, 4, dtype=torch.float64)
    for t in range(20):
        wanted = decay[:, None, None] * wanted + inputs["key"][0, t, :, :, None] * inputs["value"][0, t, :, None, :]
    (found,) = [x for x in state.tensors().values() if x.shape == (1, 2, 4, 4)]
    torch.testing.assert_close(found[0], wanted, rtol=1e-13, atol=1e-13)


KINDS: list[dict[str, Any]] = [
    {}, {"start": "carry", "gate": "softmax"}, {"cache": "sparse", "top_k": 2, "checkpoint_dtype": "bfloat16"},
    {"memory": "deep", "cache": "soup"}, {"router": "subblock:2", "gate": "softmax", "rate": 2, "compress": "mean"},
    {"max_checkpoints": 3, "evict": "use"}, {"max_checkpoints": 3, "evict": "merge", "router": "subblock:4"},
]  # fmt: skip


def doubling(segments: str = "doubling", **keys: Any) -> Any:
    torch.manual_seed(0)
    return st.MemoryCaching(d_model=8, heads=2, segment=8, segments=segments, window=3, **keys).double()


@pytest.mark.parametrize("keys", KINDS)
def test_a_kind_of_segment_is_one_file(examples: None, keys: dict[str, Any]) -> None:
    """In any split, with padding, resets and phases."""
    layer = doubling(**keys)
    x, mask = torch.randn(3, 36, 8, dtype=torch.float64), torch.rand(3, 36) < 0.8
    reset = torch.zeros(3, 36, dtype=torch.bool)
    reset[1, 20] = True
    parts, start = [], layer.init_state(3, phase=[0, 2, 3])
    whole, after = layer(x, start, mask=mask, reset=reset)
    for cuts in (range(37), (0, 11, 12, 30, 36)):
        state, parts = start, []
        for a, b in itertools.pairwise(cuts):
            y, state = layer(x[:, a:b], state, mask=mask[:, a:b], reset=reset[:, a:b])
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], rtol=1e-9, atol=1e-9)
        assert [n.tolist() for n in state.checkpoints()] == [n.tolist() for n in after.checkpoints()]
    loaded = layer.load_state(after.tensors(), after.meta())
    assert torch.equal(layer(x, loaded)[0], layer(x, after)[0])


@pytest.mark.parametrize("keys", KINDS)
def test_the_lengths_of_the_example_are_those_of_cuts(examples: None, keys: dict[str, Any]) -> None:
    """As with segments that end where the caller cuts, at the writes 1, 3 and 7: the same numbers, and gradients."""
    x = torch.randn(1, 48, 8, dtype=torch.float64, requires_grad=True)
    rate, found = keys.get("rate", 1), []
    for segments in ("doubling", "content"):
        cut = torch.zeros(1, 48, dtype=torch.bool)
        cut[0, [n * rate - 1 for n in (1, 3, 7)]] = True
        y, state = doubling(segments, **keys)(x, cut=cut if segments == "content" else None)
        found.append((y, state.checkpoints()[0], torch.autograd.grad(y.square().sum(), x)[0]))
    (a, n, da), (b, m, db) = found
    assert torch.equal(a, b) and torch.equal(da, db) and n.tolist() == m.tolist() and n[0] > 2


def test_sessions_know_the_lengths_of_the_example(examples: None, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"depth": 1, "d_model": 16, "heads": 2, "window": 4, "segment": 8, "router_dim": 4}
    model = st.LM(st.presets.nano(259, segments="doubling", **keys))
    session = st.Session(model, st.ByteTokenizer())
    session.append("a" * 40)
    session.save(tmp_path / "a.silt")
    found = describe(tmp_path / "a.silt")
    assert found["checkpoints"] == [(0, 1), (1, 3), (3, 7), (7, 15), (15, 23), (23, 31)]
    assert [len(found["checkpoints"])] == session._state.checkpoints()[0].tolist()
    assert found["growth"].startswith("O(t/C): one checkpoint every C = 8 tokens, and log C more")
    again = st.Session.load(tmp_path / "a.silt", model, st.ByteTokenizer())
    for each in (session, again):
        each.append("b" * 9)
    assert session.logits is not None and again.logits is not None and torch.equal(session.logits, again.logits)


def test_a_kind_of_segment_is_a_value_of_its_key(examples: None) -> None:
    with pytest.raises(st.errors.ConfigError, match="segments='doublin' is not known.*'doubling'.*did you mean 'doubling'"):
        doubling("doublin")
    with pytest.raises(st.errors.InputError, match="cut was given"):
        doubling()(torch.zeros(1, 4, 8, dtype=torch.float64), cut=torch.ones(1, 4, dtype=torch.bool))
