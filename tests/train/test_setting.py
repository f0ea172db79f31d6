"""Values of `--set`: JSON, plain text, and what was meant to be JSON."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from siltstone.config.registry import FAMILIES, described
from siltstone.config.setting import parse_setting
from siltstone.errors import ConfigError
from tests.cli.commands import good, refused


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("compress_options={'context': True}", {"context": True}),
        ('compress_options={"context": False, "queries": 4,}', {"context": False, "queries": 4}),
        ("memory_options={decay: channel}", {"decay": "channel"}),
        ("memory_options={decay:channel}", {"decay": "channel"}),  # a shell takes the quotes away
        ("memory_options={'limit': None, 'rate': 1e-2, 'inner_batch': -4}", {"limit": None, "rate": 0.01, "inner_batch": -4}),
        ("layers={0: {'window': 4}, -1: {'cache': 'none'}}", {"0": {"window": 4}, "-1": {"cache": "none"}}),
        ('layers={"0": {"window": 4}', {"0": {"window": 4}}),
        ("layers={'0': {'cache': \"it's True\", 'window': 4}}", {"0": {"cache": "it's True", "window": 4}}),
        ("memory='titans'", "titans"),
        ('memory="titans', "titans"),
        ("tie=True", True),
        ("kv_heads=None", None),
        ("cut_at=None", None),
    ],
)
def test_what_is_almost_json_is_shown_as_json(text: str, value: Any) -> None:
    """The message shows what to type instead, quoted for the shell, and that is understood."""
    with pytest.raises(ConfigError, match="is not JSON .* true, false, null, and double quotes") as error:
        parse_setting(text)
    told = shlex.split(str(error.value).partition("; write --set ")[2])
    assert len(told) == 1
    assert parse_setting(told[0]) == (text.partition("=")[0], value)


@pytest.mark.parametrize("text", ["memory_options={;;}", "compress_options=[1 2]"])
def test_what_is_nothing_like_json_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not JSON .* write it like --set 'memory_options=\{\"decay\": \"channel\"\}'"):
        parse_setting(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cut_at=[INST]", "[INST]"),
        ("cut_at={", "{"),
        ("cut_at='", "'"),
        ("cut_at=\\section", "\\section"),
        ('cut_at="\\\\n"', "\\n"),
        ("pattern=mmw a", "mmw a"),
        ("router=subblock:8", "subblock:8"),
        ('memory="titans"', "titans"),
        (' layers = {"0": {}}', {"0": {}}),
        ("norm_eps=1e-5", 1e-5),
    ],
)
def test_json_and_plain_text_are_taken_as_they_are(text: str, value: Any) -> None:
    assert parse_setting(text) == (text.partition("=")[0].strip(), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("cut_at=\\n", "\n"), ("cut_at=", "\n"), ("cut_at=\n", "\n"), ("cut_at=\\t\\t", "\t\t"), ("cut_at=\\u000a", "\n")],
)
def test_a_text_to_cut_at_that_a_shell_does_not_make_is_refused(text: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"leave it out, as a line end is the default") as error:
        parse_setting(text)
    told = str(error.value).partition("; write --set ")[2].partition(" (JSON)")[0]
    assert [parse_setting(word) for word in shlex.split(told)] == [("cut_at", value)]


def test_the_options_that_are_listed_can_be_pasted() -> None:
    rows = good("list").stdout.splitlines()
    lists = [parse_setting(shlex.split(row)[1]) for row in rows if row.strip().startswith("--set ")]
    options = [(f"{family}_options", m["options"]) for family in FAMILIES for m in described(family) if m["options"]]
    assert lists == options


def test_train_says_so(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    words = ["train", tmp_path / "a.txt", "--out", tmp_path / "run", "--set", 'compress_options={"context": True}']
    refused("""write --set 'compress_options={"context": true}'""", *words)
