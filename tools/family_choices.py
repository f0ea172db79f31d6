"""Choices that are not members: a table in docs/family.md and one page each in docs/family/, with counts from real layers.

The texts are in family_kept.py (segments, budgets, dtypes) and family_found.py (routing, gates); the pictures come from
family_spans.py and family_lives.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import family_lives
import family_spans
import numpy as np
import torch

import siltstone as st
from siltstone.config import registry
from siltstone.layers.mixer import Mixer
from siltstone.schedule.step import StepSchedule, Turn

WIDTH, HEADS, SEGMENT, SEALED = 128, 4, 16, 100


@dataclass(frozen=True)
class Choice:
    """A value of a key, or a key of its own. `keys` set it in a layer; `more` are further settings for the table."""

    name: str
    keys: dict[str, Any]
    about: str
    need: str
    can: str
    cannot: str
    state: str
    cost: str
    source: str
    equations: str = ""
    more: tuple[dict[str, Any], ...] = ()
    note: str = ""

    @property
    def anchor(self) -> str:
        """The name of its page and its picture."""
        return self.name.replace("=", "-").replace('"', "").replace(":", "-").replace("_", "-")


@dataclass(frozen=True)
class Part:
    """A part of the index; `drawn` explains the pictures on the choices' pages."""

    title: str
    caption: str
    choices: tuple[Choice, ...]
    drawn: str = ""


def parts() -> tuple[Part, ...]:
    """The parts of the page, in order."""
    import family_found
    import family_kept

    return (family_kept.SEGMENTS, family_found.FINDING, family_kept.BUDGETS)


def merging() -> list[str]:
    """The rules whose spans merge without span states."""
    return [rule for rule in registry.members("memory") if st.MemoryCaching(16, memory=rule).mix.memory.merges is not None]


def pictures() -> dict[str, str]:
    """Every picture, by its file name."""
    return {f"{name}.svg": family_lives.picture(panels) for name, panels in family_spans.lives().items()}


@cache
def _measured(settings: str) -> tuple[int, int]:
    keys = json.loads(settings)
    if keys.pop("routing", "own") == "shared":
        return _following(keys)
    torch.manual_seed(0)
    layer = st.MemoryCaching(WIDTH, **{"heads": HEADS, "window": 0, "write_delay": 0, "segment": SEGMENT} | keys)
    tokens = SEALED * SEGMENT + 1
    cut = torch.zeros(1, tokens, dtype=torch.bool)
    cut[0, SEGMENT // 2 - 1 :: SEGMENT // 2] = True
    with torch.no_grad():
        state = layer(torch.randn(1, tokens, WIDTH), cut=cut if layer.cfg.content else None)[1]
    return _held(layer.mix, state, 0)


def _following(keys: dict[str, Any]) -> tuple[int, int]:
    """Measures the second of two layers, which shares the routing of the first."""
    sizes = {"vocab_size": 64, "d_model": WIDTH, "heads": HEADS, "depth": 2, "window": 0, "write_delay": 0, "segment": SEGMENT}
    torch.manual_seed(0)
    model = st.LM(st.LMConfig.from_dict(sizes | {"routing": "shared"} | keys))
    with torch.no_grad():
        state = model(torch.randint(0, 64, (1, SEALED * SEGMENT + 1)))[1]
    return _held(model.get_submodule("blocks.1.mix"), state, 1)


def _held(mixer: Any, state: Any, layer: int) -> tuple[int, int]:
    assert isinstance(mixer, Mixer)
    bank = state.layers[layer].bank
    by = StepSchedule(mixer.geo, state.positions, np.zeros(1, bool))
    at = torch.from_numpy(state.position)
    view = bank.rows_view(mixer.router, Turn(mixer.geo, at, None, by.tensors(at.device), by.hints), None)
    return view.number - (0 if view.hidden is None else int(view.hidden.sum())), bank.nbytes


def measured(keys: dict[str, Any]) -> tuple[int, int]:
    """Live checkpoints after `SEALED` segments of `SEGMENT` tokens, and the bytes of everything kept for them."""
    with torch.random.fork_rng(devices=[]):
        return _measured(json.dumps(keys, sort_keys=True))


def page(part: Part, plain: Any, filled: Any) -> list[str]:
    """The paragraphs of a part."""
    plain = linked(plain)
    rows = ["| for | take | cost | state | checkpoints | bytes |", "|---|---|---|---|---|---|"]
    for choice in part.choices:
        need, cost, state = (plain(words).removesuffix(".") for words in (choice.need, choice.cost, choice.state))
        rows.append(f"| {need} | [`{choice.name}`](family/{choice.anchor}.md) | {cost} | {state} | {cells(choice.keys)} |")
        rows += [f"| | `{choice.name}` with `{json.dumps(keys)}` | | | {cells(choice.keys | keys)} |" for keys in choice.more]
    return [f"## {part.title}", "\n".join(rows), *map(filled, part.caption.split("\n\n"))]


def cells(keys: dict[str, Any]) -> str:
    """Two cells of the table: checkpoints and bytes."""
    return " | ".join(f"{number:,}" for number in measured(keys))


def linked(plain: Any) -> Any:
    """`plain` for text with links, which stay links."""
    link = re.compile(r"(\[[^\]]+\]\([^)]+\))")
    return lambda words: "".join(part if i % 2 else plain(part) for i, part in enumerate(link.split(words)))


def section(part: Part, choice: Choice, escaped: Any, filled: Any) -> str:
    """The page of one choice."""
    from family_page import lower

    words = linked(escaped)

    def plain(text: str) -> str:
        return lower(words(text))

    top = f"[{part.title}](../family.md#{part.title.lower().replace(' ', '-')})."
    out = [f"# {plain(choice.name)}", top, plain(choice.about)]
    if choice.equations:
        out.append(f"```text\n{choice.equations}\n```")
    if choice.anchor in family_spans.PICTURES:
        out += [f"![{choice.anchor} over a toy stream]({choice.anchor}.svg)", filled(part.drawn)]
    if choice.note:
        out.append(plain(choice.note))
    told = {
        "**can**": choice.can,
        "**cannot**": choice.cannot,
        "state": choice.state,
        "cost": choice.cost,
        "source": choice.source,
    }
    return "\n\n".join([*out, "\n".join(f"- {name}: {plain(words)}" for name, words in told.items())])
