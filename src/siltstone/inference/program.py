"""A step as compiled programs: one token for each of B rows.

The model's blocks are compiled in groups (a group is one block, or the blocks that share a routing), so that blocks of equal
shape share one program. A program takes tensors alone: what the host knows (`models/step.py`) arrives in them. Shapes change
only when the room of a bank or a cache doubles, or when the number of rows changes: then other programs are made.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers.context import StepContext
from ..layers.products import one_row, twin
from ..layers.state import MixState
from ..models.entry import enter_step
from ..models.lm import LM
from ..models.step import Prepared, Timing, making_room, prepare
from ..models.stream_state import LMState
from ..ops.upcast import HALF
from ..schedule.call import Geometry
from ..schedule.step import Hints, Turn
from ..state.entries import Entries
from ..state.leaves import Leaves, PagedLeaves
from ..state.paged import PagedStore
from ..state.tree import Store, padded
from .background import Stopped, background

BUCKETS = (1, 4, 16, 64)  # numbers of rows that programs are made for
UNKNOWN = Hints()
Program = Callable[..., Any]
Wait = Literal["none", "first", "all"]
Key = tuple[Any, ...]  # rows, dtype, threads, and the room of each layer


class Place:
    """Stands for a leaf in the tree of a state; axes: those of a store, which may be in pages."""

    def __init__(self, leaf: Any):
        self.axes: tuple[int, ...] | None = leaf.axes if isinstance(leaf, Entries) else None
        self.paged = isinstance(leaf, PagedStore)


def flatten(states: list[MixState], whole: bool = False) -> list[Tensor]:
    """The tensors of some states. Pages come in, and do not go out: a step does not change them. What steps do not read is
    left out, unless the `whole` state is wanted."""
    found: list[Tensor] = []
    for state in states:
        for name, leaf in state.leaves():
            if isinstance(leaf, PagedLeaves) or not whole and _apart(state, name):
                continue
            if isinstance(leaf, PagedStore):
                found.extend((*leaf.pinned[0], leaf.pinned[1]))
            else:
                found.extend(leaf.leaves if isinstance(leaf, Store) else [leaf])
    return found


def rebuilt(tree: MixState, tensors: Iterator[Tensor], whole: bool = False) -> MixState:
    """The state whose tree of places this is; whole: as in `flatten`."""
    names = iter([name for name, _ in tree.leaves()])

    def leaf(place: Place) -> Any:
        if _apart(tree, next(names)) and not whole:
            return place
        if place.axes is None:
            return next(tensors)
        leaves = tuple(next(tensors) for _ in place.axes)
        return PagedLeaves(leaves, next(tensors), place.axes) if place.paged else Leaves(leaves, place.axes)

    return tree.map(leaf)


def returned(before: MixState, tensors: Iterator[Tensor]) -> MixState:
    """The state after the token, with the stores' own counts."""
    names = iter([name for name, _ in before.leaves()])

    def leaf(x: Any) -> Any:
        if _apart(before, next(names)) or isinstance(x, PagedStore):
            return x
        if isinstance(x, Store):
            return Store(tuple(next(tensors) for _ in x.leaves), x.axes, x.count, x.tide)
        return next(tensors)

    return before.map(leaf)


def _apart(state: MixState, name: str) -> bool:
    """Whether this leaf is not read by steps."""
    return name.partition(".")[0] in state.apart


class Group:
    """Consecutive blocks that one program runs."""

    def __init__(self, first: int, blocks: list[Any]):
        self.first, self.blocks = first, blocks
        geometries = {block.mix.geo.timing: block.mix.geo for block in blocks if hasattr(block.mix, "geo")}
        self.geometries: list[tuple[Timing, Geometry]] = list(geometries.items())

        self.kind = [((b.mix if hasattr(b.mix, "cfg") else b.mix.window).cfg, _shares(b), _structure(b)) for b in blocks]

    @property
    def layers(self) -> slice:
        """The positions of the blocks in the model."""
        return slice(self.first, self.first + len(self.blocks))

    def like(self, other: Group) -> bool:
        """Whether both have the same configuration and the same modules, so that one program fits both."""
        return self.kind == other.kind


def _shares(block: Any) -> bool:
    router = getattr(block.mix, "router", None)
    return router is not None and not router.leads


def _structure(block: Any) -> list[Any]:
    """What a program of a block depends on besides its configuration. A module of the caller's, or one with hooks or a `forward`
    of its own, may depend on anything, and is like no other."""
    found: list[Any] = []
    for name, module in block.named_modules():
        kind, parts = type(module), {**module._parameters, **module._buffers}
        ours = kind.__module__.startswith("siltstone.") or kind in (nn.Linear, nn.GRU, nn.LSTM)
        own = not ours or "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
        shapes = [(key, None if x is None else (x.dtype, x.shape, x.requires_grad)) for key, x in parts.items()]
        found.append((name, kind, shapes, id(module) if own else 0))
    return found


def groups(model: LM) -> list[Group]:
    """The blocks of a model in groups."""
    found: list[Group] = []
    for i, block in enumerate(model.blocks):
        if _shares(block):
            start = next(g for g in reversed(found) if any(getattr(b.mix, "router", None) is not None for b in g.blocks))
            keep = found[: found.index(start)]
            found = [*keep, Group(start.first, [*(b for g in found[len(keep) :] for b in g.blocks), block])]
        else:
            found.append(Group(i, [block]))
    return found


def body(trees: list[MixState], geometries: list[tuple[Timing, Geometry]], dtype: torch.dtype) -> Program:
    """The function of a group that is compiled."""

    def run(
        blocks: list[Any], x: Tensor, position: Tensor, active: Tensor | None, counts: list[Tensor], more: list[Any]
    ) -> tuple[Tensor, list[Tensor]]:
        tensors, empty = more
        each = iter(tensors)
        turns = {}
        for (timing, geo), count in zip(geometries, counts, strict=True):
            turns[timing] = Turn(geo, position, active, count, UNKNOWN)
        context, after = StepContext(position, active, turns, dtype, True), []
        for block, tree, none in zip(blocks, trees, empty, strict=True):
            x, state = block.step(x, rebuilt(tree, each), context, none)
            after.append(state)
        return x, flatten(after)

    return run


class CompiledStep:
    """`LM.step` by compiled programs.

    wait   which programs a step waits for: the "first", "all", or "none"; others are compiled by a thread, and eager steps serve
           until they are there

    Programs are made for 1, 4, 16 and 64 rows; other numbers of rows are served eagerly. Several threads may call it.
    """

    def __init__(self, model: LM, wait: Wait, backend: Any = "inductor"):
        self.model, self.wait, self.backend = model, wait, backend
        self.failed: BaseException | None = None
        self.compiled = 0  # programs of blocks that were made
        one = model if model.like.dtype in HALF else twin(model, one_row)  # sums in half precision round more than products
        self._twins = {True: one, False: model}  # by whether there is one row
        self._groups = {one: groups(found) for one, found in self._twins.items()}
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._ready: dict[Key, list[Program]] = {}
        self._making: set[Key] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def step(self, ids: Tensor, state: LMState, given: Any = (None, None, None), inplace: bool = True) -> tuple[Tensor, LMState]:
        """As `LM.step`; given: active, cut, reset."""
        model = self.model
        model.check_ids(ids.unsqueeze(1))
        with torch.inference_mode(False), torch.no_grad():
            state, flags = enter_step(model, model.like, ids, state, *given)
            mixers = [block.mix for block in model.blocks]
            ready = prepare(mixers, state, flags, model.like.device, inplace)
            with making_room():
                ready.layers = [layer.roomy(mixer) for layer, mixer in zip(ready.layers, mixers, strict=True)]
            x = model.embed(ids).unsqueeze(1)
            if len(x) > 1 and ready.active is None:  # one program for all rows and for some
                ready.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
            programs = self._found(ready, x)
            if programs is None:
                return self._eager(x, ready)
            return self._compiled(programs, x, ready)

    def _eager(self, x: Tensor, ready: Prepared) -> tuple[Tensor, LMState]:
        layers, context = [], ready.context(self.model.like.dtype)
        for block, before, empty in zip(self.model.blocks, ready.layers, ready.empty, strict=True):
            x, after = block.step(x, before, context, empty)  # type: ignore[operator]
            layers.append(after)
        return self.model.head(self.model.norm(x))[:, 0], LMState(ready.after, tuple(layers), self.model.cfg)

    def _compiled(self, programs: list[Program], x: Tensor, ready: Prepared) -> tuple[Tensor, LMState]:
        layers: list[MixState] = []
        for group, program in zip(self._groups[len(x) == 1], programs[:-1], strict=True):
            before = ready.layers[group.layers]
            x, tensors = program(*_arguments(group, x, ready))
            each = iter(tensors)
            layers.extend(returned(state, each) for state in before)
        return programs[-1](x)[:, 0], LMState(ready.after, tuple(layers), self.model.cfg)

    def _found(self, ready: Prepared, x: Tensor) -> list[Program] | None:
        """The programs for these shapes; None: there are none (yet)."""
        if self.failed is not None and self.wait != "none" and not self._ready:
            raise self._refused()
        if len(x) not in BUCKETS or self.failed is not None:
            return None
        shared = len(x), x.dtype, torch.get_num_threads()
        key = (*shared, *(_size(layer) for layer in ready.layers))
        programs = self._ready.get(key)
        if programs is not None:
            return programs
        with self._lock:
            if key in self._making:
                return None
            self._making.add(key)
        if self.wait == "all" or self.wait == "first" and not self._ready:
            self._make(key, *self._example(ready, x))
            if self.failed is not None:
                raise self._refused()
            return self._ready[key]
        self._threads.append(background(partial(self._make, key, *self._example(ready, x))))
        return None

    def _refused(self) -> InputError:
        said = " ".join(str(self.failed).split())[:200] or type(self.failed).__name__
        error = InputError(f"one-token steps of this model cannot be compiled: {said}; use runtime='eager'")
        error.__cause__ = self.failed
        return error

    @property
    def ready(self) -> bool:
        """Whether some shapes have programs."""
        return bool(self._ready)

    def join(self) -> None:
        """Wait for the programs that are being compiled."""
        while self._threads:
            self._threads.pop().join()

    def _example(self, ready: Prepared, x: Tensor) -> tuple[Prepared, Tensor]:
        """Copies of what a program takes, for its first call."""
        return replace(ready, layers=[layer.map(_copy) for layer in ready.layers]), x.clone()

    def _make(self, key: Key, ready: Prepared, x: Tensor) -> None:
        try:
            with torch.no_grad(), _tracing_networks():
                self._eager(x, replace(ready, layers=[layer.map(_copy) for layer in ready.layers]))  # fills tables of constants
                programs = [self._program(key, group, x, ready) for group in self._groups[len(x) == 1]]
                model = self._twins[len(x) == 1]
                last = self._programs.setdefault(("last", *key[:3]), self._compile(lambda x: model.head(model.norm(x))))
                last(x)
                self._ready[key] = [*programs, last]
        except Stopped:
            pass
        except Exception as error:  # whatever a compiler raises: eager steps go on
            self.failed = error
        finally:
            self._making.discard(key)

    def _program(self, key: Key, group: Group, x: Tensor, ready: Prepared) -> Program:
        """The program of one group, which may be that of an earlier group."""
        layers = ready.layers[group.layers]
        shape = (*key[:3], *(_size(layer) for layer in layers))
        for (other, *rest), program in self._programs.items():
            if isinstance(other, Group) and other.like(group) and tuple(rest) == shape:
                program(*_arguments(group, x, ready))
                return program
        trees = [layer.map(Place) for layer in layers]
        program = self._compile(body(trees, group.geometries, x.dtype))
        program(*_arguments(group, x, ready))
        self._programs[group, *shape] = program
        self.compiled += 1
        return program

    def _compile(self, function: Any) -> Program:
        # a code object of its own: the compiler finds programs, and counts them, by code object
        code = function.__code__.replace()
        function = types.FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)
        options: Any = None
        if self.backend == "inductor":  # a program is found by shapes, see `_found`, and needs no other guards
            options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, "cpp.threads": torch.get_num_threads()}
        return torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend, options=options)


def _tracing_networks() -> Any:
    """The parameters of torch's recurrent networks may be used in programs; their calls are not."""
    import torch._dynamo.config as config

    return config.patch(allow_rnn=True)  # type: ignore[attr-defined]


def _size(layer: MixState) -> tuple[int, ...]:
    """The room of a layer, and the sizes of the pools that its pages are in."""
    leaves = (leaf for name, leaf in layer.leaves() if not _apart(layer, name))
    pages = [leaf.pinned[0] for leaf in leaves if isinstance(leaf, PagedStore)]
    return layer.room, *(x.numel() for leaves in pages for x in leaves)


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Store):
        return leaf.map(torch.Tensor.clone)
    return leaf if isinstance(leaf, Entries) else leaf.clone()


def _arguments(group: Group, x: Tensor, ready: Prepared) -> tuple[Any, ...]:
    layers, counts = ready.layers[group.layers], [ready.schedules[timing][1] for timing, _ in group.geometries]
    empty = [_filled(none, layer.room) for none, layer in zip(ready.empty[group.layers], layers, strict=True)]
    return group.blocks, x, ready.position, ready.active, counts, [flatten(layers), empty]


def _filled(empty: Tensor | None, room: int) -> Tensor | None:
    return None if empty is None else padded(empty, 1, room)
