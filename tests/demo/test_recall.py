"""Facts that are told in the text of a demonstration and asked at its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import siltstone as st
from siltstone.demo import lookup_run, plots, recall, report, run_folder, text
from siltstone.errors import CheckpointError
from siltstone.report import svg
from tests.demo import synthetic


@pytest.fixture(autouse=True)
def manual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text on every machine."""
    monkeypatch.setattr(text, "speeches_folder", lambda: None)


def test_the_model_that_ships_answers_what_it_was_told_and_nothing_else() -> None:
    said: list[str] = []
    found = recall.ask(lookup_run(), 60, said.append, most=600)
    assert 480 < found["tokens"] <= 600 and found["window"] == 128 and len(found["asked"]) == recall.FACTS
    right = {way: sum(one["right"][way] for one in found["asked"]) for way in recall.WAYS}
    assert min(right["told"], right["once"]) >= 5 and right["not told"] == 0 and right["window"] <= 3
    for one in found["asked"]:
        assert one["nats"]["told"] < one["nats"]["not told"] and 0 <= one["distance"] < 600
        assert one["right"]["told"] == one["said"]["told"].strip().startswith(one["answer"])
    distances = [one["distance"] for one in found["asked"]]
    assert distances == sorted(distances, reverse=True)
    assert len(found["recorded"]["columns"]) == 4 and all(len(row) == 4 for row in found["recorded"]["rows"])
    assert f"right: told {right['told']} of 8, told, no passage read again {right['once']} of 8, not told 0 of 8" in said[-1]


@pytest.mark.parametrize(("per_token", "length"), [(1e-4, 32768), (3e-4, 16384), (1e-3, 8192), (2e-3, 4096), (1.0, 2048)])
def test_the_text_is_as_long_as_there_is_time(per_token: float, length: int) -> None:
    assert recall.chosen_length(per_token, 2 * 8192 * 1e-3) == length


def test_the_model_reads_in_two_stages() -> None:
    """Nothing else differs from the model that ships."""
    model, (shipped, _) = recall.model_of(lookup_run())[0], st.load(lookup_run())
    found, before = (x.cfg.to_dict() for x in (model, shipped))
    options = found["layers"]["0"].pop("cache_options")
    assert options == before["layers"]["0"].pop("cache_options") | recall.READING and found == before
    assert all(torch.equal(x, y.float()) for x, y in zip(model.parameters(), shipped.parameters(), strict=True))


def test_the_models_that_ship_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_folder(Path("lookup")) == st.lookup_run() and run_folder(Path("demo")) == st.demo_run()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lookup").mkdir()
    assert run_folder(Path("lookup")) == Path("lookup")
    monkeypatch.setattr("siltstone.demo.LOOKUP", tmp_path)
    with pytest.raises(CheckpointError, match="there is no shipped model"):
        lookup_run()


def test_the_report_shows_answers_and_differences_instead_of_curves_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    record = synthetic.record(chunks=9)
    page = report.page(record)
    assert "What the text said, asked at its end" in page and "<td>1 of 2</td><td>1.50</td>" in page and "&lt;green&gt;" in page
    assert "<th>twin</th>" in page and "<td>&lt;0.1</td>" in page
    record.recall = {}
    assert "What the text said" not in report.page(record)
    drawn: list[svg.Line] = []
    monkeypatch.setattr(svg, "plot", lambda lines, *_, **__: drawn.extend(lines) or "")
    record.samples = [{"session": 2.0, "64": 2.1, "256": 2.0}, {"session": 2.0, "64": 2.3, "256": 2.1}]
    record.sampled = [3072, 6144]
    plots.gain_plot(record)
    assert drawn.pop().ys == pytest.approx([0.1, 0.2])
    plots.position_plot(synthetic.evidence())
    assert [line.name for line in drawn] == ["than the window-only twin"] and drawn[0].ys == pytest.approx(
        [0.03 * i for i in range(10)]
    )
