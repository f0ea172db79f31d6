"""What the contract tests share: modules with generic weights, the oracle's answers, batches made of lives, comparisons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import siltstone as st
from siltstone.memory.mlstm import Mlstm

from ..oracle import layer as oracle_layer
from .grid import INNER, LENGTH, WIDTH, Case, used

PAD = None  # in a row of `Batch.of`: a padded column
TOLERANCE = 1e-10


def close(got: Tensor, want: Tensor, what: str = "outputs") -> None:
    """max|difference| <= 1e-10 max(1, max|wanted|), and not a NaN among them."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if want.numel() == 0:
        return
    worst = float((got - want).detach().abs().max())
    bound = TOLERANCE * max(1.0, float(want.detach().abs().max()))
    at = [int(i) for i in torch.unravel_index((got - want).detach().abs().argmax(), got.shape)]
    assert worst <= bound, f"{what}: differs by {worst:.3g} at {at}, allowed {bound:.3g}"


def differ(a: Tensor, b: Tensor) -> bool:
    """Not the same by far more than rounding."""
    return float((a - b).detach().abs().max()) > 1e-6


def generic(module: nn.Module, seed: int = 0) -> Any:
    """Float64, and every parameter moved away from special values such as 0 and 1, or where a gate is nearly shut."""
    gen = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=gen, dtype=torch.float64) * 0.3)
        for part in module.modules():
            if isinstance(part, Mlstm):  # input gates about 1: |q n| is above 1 at some queries and below it at others
                part.gates.bias[part.heads :] += 4.5
    return module


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STREAM = randn(LENGTH, WIDTH, seed=1)
PROBE = randn(LENGTH, WIDTH, seed=2)


def make_layer(cfg: dict[str, Any], block: int | None = None) -> Any:
    """A layer with generic weights; `block` writes are scanned at a time, so that short streams have several blocks."""
    torch.manual_seed(0)
    layer = generic(st.MemoryCaching(**used(cfg)))
    if block is not None and cfg["memory"] not in INNER:
        group = layer.cfg.group
        layer.mix.memory.chunk = max(1, block // group) * group
        layer.mix.geo = replace(layer.mix.geo, chunk=max(1, block // group))
    return layer


def cutting(module: Any, cuts: Collection[int] | None) -> Any:
    """The module, called with `cut` at the given tokens of every life (and at all padding, where it must not count)."""
    if cuts is None:
        return module

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        x, state = args[0], args[1] if len(args) > 1 else kwargs.get("state")
        mask, reset = kwargs.get("mask"), kwargs.get("reset")
        cut = torch.ones(x.shape[:2], dtype=torch.bool)
        for b in range(x.shape[0]):
            at = 0 if state is None else int(state.position[b])
            for t in range(x.shape[1]):
                if mask is None or mask[b, t]:
                    at = 0 if reset is not None and reset[b, t] else at
                    cut[b, t] = at in cuts
                    at += 1
        return args, kwargs | dict(cut=cut)

    module.register_forward_pre_hook(hook, with_kwargs=True)
    return module


@cache
def the_layer(case: Case) -> Any:
    return cutting(make_layer(case.cfg, case.block), case.cuts)


def init_state(module: Any, batch: int, phase: int | Sequence[int] = 0) -> Any:
    """A state whose rows have the given phases."""
    return module.init_state(batch, phase=[phase] * batch if isinstance(phase, int) else list(phase))


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters, a single layer's without the `mix.` in front."""
    return {name.removeprefix("mix."): p for name, p in module.named_parameters()}


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Independent copies of the parameters, by the oracle's names."""
    return {name: p.detach().clone().requires_grad_() for name, p in named(module).items()}


@dataclass(frozen=True)
class Truth:
    """The oracle's answer for one case: y [T, D], and the gradients of sum(y * PROBE)."""

    y: Tensor
    x_grad: Tensor
    grads: dict[str, Tensor]


def gradients(loss: Tensor, x: Tensor, params: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """d loss / d x and / d every parameter, zeros where it does not depend on one."""
    dx, *rest = torch.autograd.grad(loss, [x, *params.values()], materialize_grads=True)
    return dx, dict(zip(params, rest, strict=True))


def oracles(cfg: dict[str, Any], layer: Any, x: Tensor, probe: Tensor, phase: int = 0, cuts: Collection[int] = ()) -> Truth:
    """What the oracle makes of a layer's weights and x [T, D]."""
    with torch.enable_grad():
        w, x = weights(layer), x.detach().clone().requires_grad_()
        y = oracle_layer.run(cfg, w, x, phase, cuts=cuts)
        return Truth(y.detach(), *gradients((y * probe).sum(), x, w))


@cache
def truth(case: Case) -> Truth:
    return oracles(case.cfg, the_layer(case), STREAM, PROBE, case.phase, case.cuts or ())


def agrees(layer: Any, x: Tensor, probe: Tensor, want: Truth, phase: int = 0, calls: Sequence[int] = ()) -> Any:
    """The layer over x [T, D] in some calls: outputs and gradients are the oracle's -> the state after."""
    x = x.detach().clone().requires_grad_()
    y, state = feed(layer, x[None], init_state(layer, 1, phase), calls)
    close(y[0], want.y)
    dx, grads = gradients((y[0] * probe).sum(), x, named(layer))
    close(dx, want.x_grad, "gradient of x")
    for name, grad in grads.items():
        close(grad, want.grads[name], f"gradient of {name}")
    return state


@dataclass(frozen=True)
class Batch:
    """Rows made of lives of one stream, with padding between the tokens.

    plan[b][t] is the index in the stream of the token there (0 begins a new life), or PAD.
    """

    plan: list[list[int | None]]

    @classmethod
    def of(cls, *rows: list[int | None]) -> Batch:
        width = max(len(row) for row in rows)
        return cls([row + [PAD] * (width - len(row)) for row in rows])

    @property
    def width(self) -> int:
        return len(self.plan[0])

    @property
    def mask(self) -> Tensor:
        return torch.tensor([[i is not PAD for i in row] for row in self.plan], dtype=torch.bool).view(len(self.plan), self.width)

    @property
    def reset(self) -> Tensor:
        """True at first tokens, and at some padding, where it must not count."""
        flags = [[i == 0 or (i is PAD and t % 3 == 0) for t, i in enumerate(row)] for row in self.plan]
        return torch.tensor(flags, dtype=torch.bool).view(len(self.plan), self.width)

    def spread(self, source: Tensor, padding: float) -> Tensor:
        """[T, ...] by stream index -> [B, T', ...] with `padding` where nothing stands."""
        index = torch.tensor([[0 if i is PAD else i for i in row] for row in self.plan], dtype=torch.long).view(
            len(self.plan), self.width
        )
        out = source[index]
        mask = self.mask.view(*self.mask.shape, *[1] * (out.dim() - 2))
        return torch.where(mask, out, torch.full_like(out, padding))


def feed(module: Any, x: Tensor, state: Any = None, cuts: Sequence[int] = (), inplace: bool = False, **flags: Tensor) -> Any:
    """The module over x [B, T, ...] in several calls, cut before the given columns -> (outputs, state)."""
    edges = [0, *sorted(cuts), x.shape[1]]
    outs = []
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        part = {name: flag[:, a:b] for name, flag in flags.items()}
        y, state = module(x[:, a:b], state, **part, **(dict(inplace=True) if inplace else {}))
        assert y.shape[:2] == (x.shape[0], b - a)
        outs.append(y)
    return torch.cat(outs, 1), state
