"""Every command builds the configuration of its model once; a layer that differs is built once too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import siltstone as st
from siltstone.cli.app import main
from siltstone.config.layer import LayerConfig
from siltstone.config.model import LMConfig

SMALL = {"d_model": 8, "heads": 2, "depth": 2, "window": 4, "segment": 8, "layers": '{"1": {"window": 2}}'}
SETTINGS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
TRAIN = ["--preset", "nano", "--steps", "1", "--batch", "2", "--length", "16", "--threads", "1", "--quiet", *SETTINGS]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the configurations that are built, in order."""
    found: list[str] = []
    for cls in (LMConfig, LayerConfig):
        real = cls.__post_init__

        def count(self, real=real) -> None:
            found.append(type(self).__name__)
            real(self)

        monkeypatch.setattr(cls, "__post_init__", count)
    yield found


def command(*words: object) -> None:
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    assert not done.value.code


def test_every_command(built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    text, run, session = tmp_path / "a.txt", tmp_path / "run", tmp_path / "a.silt"
    text.write_text("A text that a small model reads. " * 40, "utf-8")
    once = ["LMConfig", "LayerConfig", "LayerConfig"]  # the model's layer, and block 1's
    for words in (
        ["train", text, "--out", run, *TRAIN],
        ["train", "--out", run, "--resume", "--steps", "2", "--quiet"],
        ["train", text, "--out", tmp_path / "other", *TRAIN, "--set", "vocab_size=300"],
        ["generate", run, "A text", "--max-new-tokens", "2", "--session", session],
        ["generate", run, "more", "--max-new-tokens", "2", "--session", session],
        ["stream", run, text, "--session", tmp_path / "b.silt"],
        ["inspect", session],
    ):
        built.clear()
        command(*words)
        proofs = words[0] == "train"  # a save reads the configuration back that it writes
        assert sorted(built) == sorted(once * (1 + proofs)), words


def test_a_file_of_the_same_configuration_builds_none(built: list[str], tmp_path: Path) -> None:
    model, tok = st.LM(st.presets.nano(259, depth=1)), st.ByteTokenizer()
    s = st.Session(model, tok)
    s.append("text")
    built.clear()
    s.save(tmp_path / "a.silt")
    st.Session.load(tmp_path / "a.silt", model, tok)
    assert built == []
