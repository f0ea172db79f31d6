"""Runtimes compute with the model as it is now: with weights changed in any way, and with what was put round its modules.

The kinds of fault: a detector of changes with holes; modules that a faster way goes round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import siltstone as st
from siltstone.errors import InputError
from siltstone.inference import runtime as runtimes
from siltstone.inference.program import CompiledStep, groups
from siltstone.text import ByteTokenizer

RUNTIMES = ["compiled", "int8"]
TEXT = b"a text"


def small(seed: int = 0) -> st.LM:
    torch.manual_seed(seed)
    return st.LM(st.presets.nano(ByteTokenizer().vocab_size, depth=2, d_model=32, heads=2, window=4, segment=4)).eval()


@pytest.fixture(autouse=True)
def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run as they are written, without a compiler: test_program.py compiles."""
    monkeypatch.setattr(CompiledStep, "_compile", lambda self, function: function)


def logits(model: st.LM, runtime: str) -> Tensor:
    session = st.Session(model, ByteTokenizer(), runtime)
    for byte in TEXT:
        session.append([byte])
    assert session.logits is not None
    return session.logits


def linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    found = ((m, name, child) for m in model.modules() for name, child in m.named_children())
    return [(m, name, child) for m, name, child in found if type(child) is nn.Linear]


# --- changes of weights, after a session has made the runtime ---------------------------------------------------------------


def fused(model: nn.Module, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, **keys: object) -> None:
    made = optimizer(model.parameters(), **({"lr": 0.05} | keys))  # type: ignore[call-arg]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    made.step()


def through_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data += 0.1


def through_numpy(model: nn.Module) -> None:
    for p in model.parameters():
        p.detach().numpy()[...] += 0.1


def other_storage(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data + 0.1


def other_parameters(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() + 0.1))


def assigned(model: nn.Module) -> None:
    model.load_state_dict({name: x + 0.1 for name, x in model.state_dict().items()}, assign=True)


def other_modules(model: nn.Module) -> None:
    for owner, name, linear in linears(model):
        setattr(owner, name, nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None))


def other_block(model: st.LM) -> None:
    model.blocks[0] = small(1).blocks[0]


CHANGES: dict[str, Callable[..., None]] = {
    "AdamW": partial(fused, fused=True),
    "Adam": partial(fused, optimizer=torch.optim.Adam, fused=True),
    "SGD": partial(fused, optimizer=torch.optim.SGD, fused=True),
    "Adagrad": partial(fused, optimizer=torch.optim.Adagrad, fused=True),
    **{
        f.__name__: f
        for f in (through_data, through_numpy, other_storage, other_parameters, assigned, other_modules, other_block)
    },
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("change", CHANGES)
def test_new_sessions_compute_with_changed_weights(change: str, runtime: str) -> None:
    model, fresh = small(), small()
    before = logits(model, runtime)
    CHANGES[change](model)
    after = logits(model, runtime)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(after, logits(fresh, runtime), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_did_not_change_keeps_its_runtime(runtime: str) -> None:
    model = small()
    logits(model, runtime)
    made = runtimes.runtime(model, runtime)
    logits(model, runtime)
    assert runtimes.runtime(model, runtime) is made


# --- what is put round modules ----------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 1.5


class Louder(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.5


class Times(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5


def louder(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out * 1.5


def louder_before(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0] * 1.5,)


def own_forward(owner: nn.Module, name: str, linear: nn.Linear) -> None:
    inner = linear.forward
    linear.forward = lambda input: inner(input) * 1.5  # type: ignore[method-assign]


def another_class(owner: nn.Module, name: str, linear: nn.Linear) -> None:
    linear.__class__ = Louder


WRAPPED: dict[str, Callable[[nn.Module, str, nn.Linear], object]] = {
    "hook": lambda owner, name, linear: linear.register_forward_hook(louder),
    "hook before": lambda owner, name, linear: linear.register_forward_pre_hook(louder_before),
    "own forward": own_forward,
    "another class": another_class,
    "adapter": lambda owner, name, linear: setattr(owner, name, Adapted(linear)),
    "parametrised": lambda owner, name, linear: nn.utils.parametrize.register_parametrization(linear, "weight", Times()),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("blocks", ["all", "one", "later"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_put_round_modules_has_its_effect(kind: str, blocks: str, runtime: str) -> None:
    model = small()
    if blocks == "later":
        logits(model, runtime)
    for found in linears(model.blocks[1] if blocks == "one" else model.blocks):
        WRAPPED[kind](*found)
    want, bare = logits(model, "eager"), logits(small(), "eager")
    apart, effect = (logits(model, runtime) - want).abs().max(), (bare - want).abs().max()
    assert apart < (0.4 if runtime == "int8" else 1e-3) * effect
    first, second = groups(model)
    if blocks == "one":
        assert not first.like(second)


def test_equal_blocks_share_a_program() -> None:
    first, second = groups(small())
    assert first.like(second)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_cannot_be_compiled_is_refused_at_every_step(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(program: CompiledStep, function: object) -> object:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(CompiledStep, "_compile", broken)
    model = small()
    for _ in range(2):
        with pytest.raises(InputError, match="cannot be compiled: no such instruction; use runtime='eager'"):
            logits(model, runtime)
