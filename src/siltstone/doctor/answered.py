"""Who answered: which parts of a layer its output comes from, at the last tokens of a text.

In layers with blocks: sinks, blocks and window (all tokens since the last block). In memory layers: sinks, window, pairs of key
and value that the window attends to besides (cache="exact"), memory (with the pairs of `cache_options` exact) and bank, which is
all checkpoints. Where checkpoints are blended before they are read (cache="soup" and a memory that is not linear), the bank is
part of memory.

mass      share of (attention mass * norm of the value), mean over tokens; None in memory layers, which have no common softmax
output    share of the norm of what each part adds to the output of a head, mean over tokens
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..layers import step
from ..layers.blocks import BlockAttention
from ..layers.mixer import Mixer
from ..models.lm import LM
from ..ops import window
from ..ops.attention import masses

LAST = 64  # tokens that are looked at
SILENT = 0.01  # a part with a smaller share in every layer and head never speaks
Sums = dict[str, tuple[Tensor, Tensor]]  # of a token, by part: sums of mass * norm [H], and norms of what it adds [H]


def parts_of_blocks(mixer: BlockAttention, seen: int, q: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Sums:
    """What one token of one row, with `seen` tokens before and with it, gets from each part of its softmax."""
    law, width = mixer.law, key.shape[2]
    near = law.near if width == law.sinks + law.most * law.block + law.near else min(law.near, seen)
    value = value[0].repeat_interleave(q.shape[1] // value.shape[1], 0)  # [H, N, V]
    mass = masses(q, key, mask, mixer.cfg.scale)[0, :, 0]  # [H, N]
    sizes = {"sinks": law.sinks, "blocks": width - law.sinks - near, "window": near}
    found: Sums = {}
    for (name, _), m, v in zip(sizes.items(), mass.split([*sizes.values()], 1), value.split([*sizes.values()], 1), strict=True):
        if m.shape[1]:
            found[name] = (m * v.norm(dim=-1)).sum(1), (m[:, None] @ v)[:, 0].norm(dim=-1)
    return found


@contextmanager
def heard(model: LM, look: Callable[[int, Sums], None], seen: Callable[[], int]) -> Iterator[None]:
    """Inside the block, `look(layer, sums)` is called for every token of one row; nothing else changes."""
    held: dict[str, Any] = {}  # of the memory layer that is computed
    undo = [_wrap(window, "one", lambda made, given: held.update(parts=given))]
    undo.append(_wrap(step, "_cached", lambda made, given: held.update(bank=made[0, :, 0])))
    undo.append(_wrap(step, "_read", lambda made, given: held.update(read=made[0][0, 0])))
    try:
        for number, block in enumerate(model.blocks):
            mixer: Any = block.mix
            if isinstance(mixer, BlockAttention):
                undo.append(_wrap(mixer.window, "attend", _of_blocks(number, mixer, look, seen)))
            elif isinstance(mixer, Mixer) and mixer.window is not None:
                undo.append(mixer.out.register_forward_pre_hook(_of_memory(number, mixer, look, held)).remove)
        yield
    finally:
        for each in undo:
            each()


def _of_blocks(number: int, mixer: BlockAttention, look: Callable[[int, Sums], None], seen: Callable[[], int]) -> Any:
    return lambda made, given: look(number, parts_of_blocks(mixer, seen(), *given[:4]))


def _of_memory(number: int, mixer: Mixer, look: Callable[[int, Sums], None], held: dict[str, Any]) -> Any:
    names = ["window", *["sinks"] * bool(mixer.geo.sinks), "pairs"]

    def hook(module: Any, given: tuple[Tensor, ...]) -> None:
        parts = window.each(*held.pop("parts"))
        found = {name: out[0].flatten(0, 1) for name, (_, out) in zip(names, parts, strict=False)}  # [H, V]
        rest = given[0][0, 0].unflatten(-1, found["window"].shape) - sum(found.values())
        bank, read = held.pop("bank", None), held.pop("read", None)
        if bank is not None and read is not None:  # the norm scales what is read of a head by one number, and each of its columns
            bank = bank * mixer.norm * (read.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
            found, rest = found | {"bank": bank}, rest - bank
        found["memory"] = rest
        look(number, {name: (x.new_zeros(0), x.norm(dim=-1)) for name, x in found.items()})

    return hook


def _wrap(owner: Any, name: str, then: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """Calls `then(result, arguments)` after each call of a method; returns what undoes it."""
    before, original = vars(owner).get(name), getattr(owner, name)

    def call(*given: Any, **keys: Any) -> Any:
        made = original(*given, **keys)
        then(made, given)
        return made

    setattr(owner, name, call)
    return lambda: setattr(owner, name, before) if before is not None else delattr(owner, name)


@torch.no_grad()
def answered(model: LM, ids: Tensor, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """The shares of every layer with blocks or a memory; ids [1, T]; the last tokens are read one a call."""
    last = min(LAST, ids.shape[1] - 1)
    _, state = model.features(ids[:, :-last])
    found: dict[int, list[Sums]] = {}
    seen = ids.shape[1] - last
    with heard(model, lambda layer, sums: found.setdefault(layer, []).append(sums), lambda: seen):
        for token in ids[0, -last:]:
            seen += 1
            _, state = model.features(token.view(1, 1), state, inplace=True)
            tick()
    return [_summary(model, layer, sums) for layer, sums in sorted(found.items())]


def _summary(model: LM, layer: int, found: list[Sums]) -> dict[str, Any]:
    parts = [name for name in ("sinks", "blocks", "window", "pairs", "memory", "bank") if any(name in sums for sums in found)]
    blocks = isinstance(model.blocks[layer].mix, BlockAttention)
    none = tuple(torch.zeros_like(x) for x in found[0]["window"])
    mass, output = (torch.stack([torch.stack([sums.get(name, none)[i] for name in parts]) for sums in found]) for i in (0, 1))
    shares = [(x / x.sum(1, keepdim=True).clamp(min=1e-30)).mean(0) for x in (mass, output)]  # [parts, H]
    return {
        "layer": layer,
        "parts": parts,
        "blocks": blocks,
        "tokens": len(found),
        "mass": shares[0].mean(1).tolist() if blocks else None,
        "output": shares[1].mean(1).tolist(),
        "most": (shares[0] if blocks else shares[1]).amax(1).tolist(),  # of one head
    }
