"""Every projection is called as a module: what stands in its place, or listens to it, takes effect."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from .models import EVERY, IDS, RULES, decoded, model, some_ids

KINDS = ["float32", "bfloat16", "autocast"]
GRID = [(keys, kind) for i, keys in enumerate(EVERY) for kind in (KINDS if i < len(RULES) else KINDS[i % 3 : i % 3 + 1])]
NAMES = [f"{IDS[EVERY.index(keys)]} {kind}" for keys, kind in GRID]
PARTS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.RNNBase)


class Adapter(nn.Module):
    """A module, and a low-rank map of its input added to what it gives."""

    def __init__(self, base: Any):
        super().__init__()
        self.base = base
        if isinstance(base, nn.Embedding):
            self.down, width = nn.Embedding(base.num_embeddings, 2), base.embedding_dim
        else:
            width = base.hidden_size if isinstance(base, nn.RNNBase) else base.out_features
            self.down = nn.Linear(base.input_size if isinstance(base, nn.RNNBase) else base.in_features, 2, bias=False)
        self.up = nn.Linear(2, width, bias=False)

    def forward(self, x: Any, *more: Any) -> Any:
        out = self.base(x, *more)
        if not isinstance(out, tuple):
            return out + self.up(self.down(x))
        first = out[0]
        if isinstance(x, PackedSequence):
            return first._replace(data=first.data + self.up(self.down(x.data))), *out[1:]
        return first + self.up(self.down(x)), *out[1:]


def parts(lm: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in lm.named_modules() if isinstance(part, PARTS)}


def put(lm: nn.Module, name: str, part: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(lm.get_submodule(owner), last, part)


def adapted(lm: Any) -> dict[str, Adapter]:
    found = {name: Adapter(part) for name, part in parts(lm).items()}
    for name, adapter in found.items():
        put(lm, name, adapter)
    return found


@contextmanager
def as_kind(lm: nn.Module, kind: str) -> Iterator[None]:
    if kind == "bfloat16":
        lm.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast", cache_enabled=False):  # weights change
        yield


def moved(found: dict[str, nn.Module], base: str = "") -> list[str]:
    """The names of parts with a parameter that no gradient has reached."""
    return [
        f"{name}.{n}"
        for name, part in found.items()
        for n, p in part.named_parameters()
        if not n.startswith("base.") and (p.grad is None or not bool(p.grad.isfinite().all() and p.grad.abs().max() > 0))
    ]


@pytest.mark.parametrize(("keys", "kind"), GRID, ids=NAMES)
def test_adapters_take_effect_and_learn(keys: dict[str, Any], kind: str) -> None:
    lm, ids = model(keys), some_ids()
    found = adapted(lm)
    assert "unembed" in found and any(".mix.memory." in name for name in found)
    with as_kind(lm, kind):
        y, _ = lm(ids)
        y.float().square().sum().backward()
        assert not moved(found)
        if kind == "bfloat16":
            return
        for adapter in found.values():  # each of them alone, in the one-token way
            nn.init.zeros_(adapter.up.weight)
        plain = decoded(lm, ids[:1])
        for name, adapter in found.items():
            with torch.no_grad():
                adapter.up.weight.fill_(1.0)
                assert not torch.equal(decoded(lm, ids[:1]), plain), name
                adapter.up.weight.zero_()


@pytest.mark.parametrize(("keys", "kind"), GRID, ids=NAMES)
def test_hooks_fire_and_change_nothing_by_themselves(keys: dict[str, Any], kind: str) -> None:
    lm, ids, heard = model(keys), some_ids(), set()
    with as_kind(lm, kind), torch.no_grad():
        want = lm(ids)[0], decoded(lm, ids)
        for name, part in parts(lm).items():
            part.register_forward_hook(lambda *_, name=name: heard.add(name))
        for call, y in ((lambda: lm(ids)[0], want[0]), (lambda: decoded(lm, ids), want[1])):
            heard.clear()
            assert torch.equal(call(), y)
            assert heard == parts(lm).keys()


class Shift(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        self.by = nn.Parameter(0.1 * torch.randn_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.by


@pytest.mark.parametrize(("keys", "kind"), GRID, ids=NAMES)
def test_parametrised_weights_take_effect_and_learn(keys: dict[str, Any], kind: str) -> None:
    """As if the weights were those that the parametrisation gives."""
    lm, other, ids = model(keys), model(keys), some_ids()
    with as_kind(lm, kind), as_kind(other, kind):
        for one, two in zip(parts(lm).values(), parts(other).values(), strict=True):
            for name in [n for n, _ in one.named_parameters(recurse=False) if "weight" in n]:
                shift = Shift(getattr(one, name))
                parametrize.register_parametrization(one, name, shift)
                with torch.no_grad():
                    getattr(two, name).add_(shift.by)
        shifts = {name: part for name, part in lm.named_modules() if isinstance(part, Shift)}
        assert shifts
        y, _ = lm(ids)
        assert torch.equal(y, other(ids)[0])
        y.float().square().sum().backward()
        assert not moved(shifts)


def quantised(lm: nn.Module, spec: set[Any]) -> Any:
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():  # torch tells of its successor
        warnings.simplefilter("ignore")
        return quantize_dynamic(lm, spec, dtype=torch.qint8)


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_dynamically_quantised_models_work(keys: dict[str, Any]) -> None:
    """Gates too: no linear map is left as it was but the tied head, whose weights are the embedding's."""
    lm, ids = model(keys), some_ids()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        small = quantised(lm, {nn.Linear, nn.GRU, nn.LSTM})
        assert not [name for name, part in small.named_modules() if type(part) in (nn.Linear, nn.GRU, nn.LSTM)]
        want, state = lm(ids)
        got, after = small(ids)
        assert 0 < float((got - want).norm() / want.norm()) < 0.3
        assert after.meta() == state.meta()
        assert decoded(small, ids).isfinite().all()
        restored = small.load_state(after.tensors(), after.meta())
        torch.testing.assert_close(decoded(small, ids, restored, inplace=False), decoded(small, ids, after, inplace=False))


def test_a_part_replaced_by_a_plain_one_is_used() -> None:
    """As when an adapter is merged."""
    lm, ids = model({}), some_ids()
    gates = lm.get_submodule("blocks.0.mix.memory.gates")
    other = nn.Linear(gates.in_features, gates.out_features)
    put(lm, "blocks.0.mix.memory.gates", other)
    twin = model({})
    twin.get_submodule("blocks.0.mix.memory.gates").load_state_dict(other.state_dict())
    with torch.no_grad():
        for kind in KINDS:
            with as_kind(lm, kind), as_kind(twin, kind):
                assert torch.equal(lm(ids)[0], twin(ids)[0])


def test_the_head_stays_tied() -> None:
    lm, ids = model({}), some_ids()
    assert "unembed.weight" not in lm.state_dict() and "unembed.weight" not in dict(lm.named_parameters())
    for twin in (lm, copy.deepcopy(lm)):
        hidden, _ = twin.features(ids)
        assert torch.equal(twin.head(hidden), nn.functional.linear(hidden, twin.embed.weight))
        with torch.no_grad():
            twin.embed.weight.mul_(2.0)
        assert torch.equal(twin.head(hidden), nn.functional.linear(hidden, twin.embed.weight))
    assert copy.deepcopy(lm).unembed.weight is not lm.embed.weight
    lm.embed = nn.Embedding(23, 16)
    assert lm.unembed.weight is lm.embed.weight
    with pytest.raises(ValueError, match="weight"):
        parametrize.register_parametrization(lm.unembed, "weight", nn.Identity())
