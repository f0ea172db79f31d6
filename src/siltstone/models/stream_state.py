"""The state of a model or layer between calls: row positions, and each layer's state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config.keys import flat, overrides
from ..config.layer import LayerConfig
from ..core.given import row_numbers
from ..errors import InputError
from ..io.parse import is_count
from ..layers.state import MixState
from ..schedule.packed import NEVER, RowPositions
from ..schedule.segments import Cuts
from ..state.entries import Entries
from ..state.paged import Pool, Pools
from ..state.spilled import Spill
from ..state.tree import Store


@dataclass(frozen=True)
class LMState:
    """The state of B rows; valid only with the configuration that created it.

    positions  position, phase and cuts of each row
    layers     one state a layer
    of         the configuration of the model or layer that created it
    inference  whether it may contain tensors of torch's inference mode
    A state is a value: calls return a new one.
    """

    positions: RowPositions
    layers: tuple[MixState, ...]
    of: Any
    inference: bool = field(default_factory=torch.is_inference_mode_enabled, repr=False, compare=False)

    @property
    def position(self) -> np.ndarray:
        """int64 [B], tokens of each row since its last reset."""
        return self.positions.position

    @property
    def phase(self) -> np.ndarray:
        """int64 [B], writes by which each row's first segment is shorter."""
        return self.positions.phase

    def __len__(self) -> int:
        return len(self.positions.position)

    def select(self, rows: Any) -> LMState:
        """Some rows. rows: a list, array or tensor of row numbers, in that order, or of one bool a row.

        Raises InputError for anything else, and for a row number out of range.
        """
        rows = row_numbers(rows, len(self))
        return self._with(self.positions.select(rows), (x.select(rows) for x in self.layers))

    @staticmethod
    def cat(states: Sequence[LMState]) -> LMState:
        """Concatenates the rows of states of one configuration; InputError for other objects, another configuration, or none."""
        states = list(states)
        if not states:
            raise InputError("no states were given to concatenate; give at least one")
        for other in states:
            if not isinstance(other, LMState):
                raise InputError(f"states must be what calls returned, and {type(other).__name__} is among them")
            check_same(states[0].of, other, "the first of the states")
        positions = RowPositions.cat([s.positions for s in states])
        layers = zip(*(s.layers for s in states), strict=True)
        cat = LMState(positions, tuple(type(x[0]).cat(x) for x in layers), states[0].of)
        return dataclasses.replace(cat, inference=cat.inference or any(s.inference for s in states))

    def placed(self, rows: np.ndarray, parts: Sequence[LMState]) -> LMState:
        """With the rows of `parts`, states of this configuration, in place of the rows int64 [n]; this state is given up.

        See `State.placed`.
        """
        layers = zip(self.layers, *(x.layers for x in parts), strict=True)
        found = self._with(
            self.positions.placed(rows, [x.positions for x in parts]), (x.placed(rows, others) for x, *others in layers)
        )
        return dataclasses.replace(found, inference=found.inference or any(x.inference for x in parts))

    def detach(self) -> LMState:
        """The same values, outside the autograd graph."""
        return self._with(self.positions, (x.detach() for x in self.layers))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> LMState:
        """`to(device)`, `to(dtype)` or both: the state for a model after the same `model.to(...)`.

        With a dtype, window, tokens to be written, keys and values get that dtype; memories, checkpoints and routing sums get
        float32, or float64 with torch.float64. Counters, and checkpoints stored as bfloat16 or int8 codes, do not change.
        Tensors that do not change are shared: fork before decoding in place.
        Raises InputError for a dtype that is not a floating one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype={dtype!r} is not a floating dtype; give one such as torch.bfloat16")
        if device is not None:
            try:
                device = torch.device(device)
            except (RuntimeError, TypeError) as error:
                raise InputError(
                    f"device={device!r} is not a device of torch; give one such as 'cpu', or a torch dtype"
                ) from error
        return self._with(self.positions, (x.to(device, dtype) for x in self.layers))

    def asking(self, rows: Any = True, since: Any = None) -> LMState:
        """With some rows choosing blocks before every token; the others choose as always, at multiples of `route_every`. Only
        layers with cache="blocks" choose blocks.

        rows    bool [B], or one bool for all
        since   int64 [B], the position from which each row does; None, or a position before the row's: from its next token on.
                A state with a later one cannot be saved
        Raises InputError for anything else.
        """
        now = np.asarray(rows.tolist() if isinstance(rows, Tensor) else rows)
        if now.dtype != bool or now.shape not in ((), self.position.shape):
            raise InputError(f"rows={rows!r:.80} must be one bool, or one for each of {len(self)} rows")
        if since is not None:
            since = np.asarray(since.tolist() if isinstance(since, Tensor) else since)
            if since.dtype != np.int64 or since.shape != self.position.shape:
                raise InputError(f"since={since!r:.80} must be a position for each of {len(self)} rows")
        return self._with(self.positions.asks(np.broadcast_to(now, self.position.shape), since), self.layers)

    def fork(self) -> LMState:
        """A copy that in-place updates of the original do not change; sealed states are shared."""
        return self._with(self.positions, (x.fork() for x in self.layers))

    def normal(self) -> LMState:
        """The same state for use in a call: outside torch's inference mode, tensors that were made inside it are copied."""
        if not self.inference or torch.is_inference_mode_enabled():
            return self
        return dataclasses.replace(self, layers=tuple(x.normal() for x in self.layers), inference=False)

    @property
    def in_pages(self) -> bool:
        """Whether checkpoints of any layer are pages of a pool."""
        return any(x.in_pages for x in self.layers)

    def paged(self, pools: Pool | Pools | None = None, sparse: bool = False) -> LMState:
        """The same state for inference, with the checkpoints of constant and content segments, and blocks, as pages of pools.

        pools   shared with other states; a `Pool` is for checkpoints of one shape; default: new pools without a limit
        sparse  only where reads pick checkpoints or blocks, so that no step lays pages out
        Calls keep it so. `select`, `cat` and forks then copy no checkpoints, and equal numbers come out. Gradients do not pass to
        what was sealed before. Raises PoolFull, InputError if a pool is for checkpoints of another shape.
        """
        pools = Pools() if pools is None else pools

        def picks(cfg: LayerConfig) -> bool:
            return cfg.members.cache.cls.sparse or cfg.members.cache.cls.exact

        return self._with(
            self.positions,
            [x.paged(pools, cfg, self.positions) if picks(cfg) or not sparse else x for x, cfg in self._each()],
        )

    def chunked(self) -> LMState:
        """The same state for inference, with the blocks of cache="blocks" in chunks; calls keep it so.

        It grows without copies of earlier blocks, and forks share all but the last chunk. Blocks under a budget stay as they are.
        """
        return self._with(self.positions, [x.chunked(cfg) for x, cfg in self._each()])

    def spilled(self, spill: Spill) -> LMState:
        """The same state for inference on the CPU, with the blocks of cache="blocks" in page files; calls keep them there.

        Raises InputError if no layer has blocks, or if they have a budget, SpillFailed if the folder cannot be written.
        """
        cfgs = (self.of,) if isinstance(self.of, LayerConfig) else self.of.memory_layers
        if not any(cfg.members.cache.cls.exact for cfg in cfgs):
            raise InputError("spill is for models with cache='blocks', and no layer of this one has blocks; leave spill out")
        if any(cfg.members.cache.cls.exact and cfg.bounded for cfg in cfgs):
            raise InputError("spill is for blocks without a budget; leave spill out, or unset max_checkpoints and max_bytes")
        return self._with(self.positions, [x.spilled(spill) for x in self.layers])

    def flat(self) -> LMState:
        """The same state without pools: every checkpoint in plain tensors."""
        return self._with(self.positions, (x.flat() for x in self.layers))

    def _each(self) -> Iterator[tuple[MixState, LayerConfig]]:
        cfgs = (self.of,) if isinstance(self.of, LayerConfig) else self.of.layer_configs
        return zip(self.layers, cfgs, strict=True)

    def _with(self, positions: RowPositions, layers: Iterable[MixState]) -> LMState:
        return LMState(positions, tuple(layers), self.of, self.inference or torch.is_inference_mode_enabled())

    @property
    def nbytes(self) -> int:
        """Live bytes."""
        return sum(x.nbytes for x in self.layers) + self._cut_bytes

    @property
    def _cut_bytes(self) -> int:
        return sum(c.tokens.nbytes for c in self.positions.cuts)

    def parts(self) -> dict[str, int]:
        """Live bytes by part: window (and other inputs that are kept), memory, checkpoints (or writes kept exactly; and cuts),
        routing, attention."""
        out: dict[str, int] = {part: 0 for part in ("window", "memory", "checkpoints", "routing", "attention")}
        out["checkpoints"] = self._cut_bytes
        for layer in self.layers:
            for part, size in layer.parts().items():
                out[part] += size
        return out

    def checkpoints(self) -> list[np.ndarray]:
        """Number of slots for sealed states [B], one array for each layer that keeps any.

        With constant segments all slots are filled; with logarithmic ones, one for each 1 bit of the number of segments.
        """
        return [places for layer in self.layers if (places := layer.checkpoints()) is not None]

    def tensors(self) -> dict[str, Tensor]:
        """Every live tensor by name, contiguous; stores have the number of entries of the longest row.

        With segments="content", `cuts` int64 are the tokens at which rows were cut, one row after the other.
        """
        out: dict[str, Tensor] = {}
        if self.positions.cuts:
            tokens = np.concatenate([c.tokens for c in self.positions.cuts])
            out["cuts"] = torch.empty(len(tokens), dtype=torch.int64, device="cpu").copy_(torch.from_numpy(tokens))
        for i, layer in enumerate(self.layers):
            for name, leaf in layer.leaves(f"layers.{i}."):
                if isinstance(leaf, Entries):
                    for j, view in enumerate(leaf.flat().views()):
                        out[f"{name}.{j}"] = view.contiguous()
                else:
                    out[name] = leaf.contiguous()
        return out

    def meta(self) -> dict[str, Any]:
        """The rest of the state, ready for JSON: positions, counts, and the keys that are not at their defaults."""
        counts = {}
        for i, layer in enumerate(self.layers):
            for name, leaf in layer.leaves(f"layers.{i}."):
                if isinstance(leaf, Entries):
                    counts[name] = leaf.count.tolist()
        out = {"position": self.position.tolist(), "phase": self.phase.tolist(), "counts": counts, "keys": overrides(self.of)}
        out |= {"cuts": [len(c.tokens) for c in self.positions.cuts]} if self.positions.cuts else {}
        return out | ({} if self.positions.asking is None else {"asking": self.positions.asking.tolist()})


def check_same(cfg: Any, state: LMState, owner: str) -> None:
    """InputError if a state was created by another configuration."""
    if state.of is cfg or state.of == cfg:
        return
    if type(state.of) is not type(cfg):
        kinds = {"LMConfig": "a model's (st.LM)", "LayerConfig": "a layer's (st.MemoryCaching)"}
        given, wanted = (kinds.get(type(x).__name__, f"of a {type(x).__name__}") for x in (state.of, cfg))
        raise InputError(f"the state is {given}, and one that is {wanted} is required; begin with a fresh state (state=None)")
    check_keys(flat(cfg), flat(state.of), owner)


def check_keys(ours: dict[str, Any], theirs: dict[str, Any], owner: str) -> None:
    """InputError if a state's keys differ from its owner's; the message has the first three of them."""
    apart = [key for key in (*ours, *(k for k in theirs if k not in ours)) if ours.get(key) != theirs.get(key)][:3]
    if apart:
        given, wanted = (", ".join(f"{key}={keys.get(key)!r:.60}" for key in apart) for keys in (theirs, ours))
        raise InputError(
            f"the state was made with {given}, and {owner} has {wanted}; begin with a fresh state (state=None), or use the "
            "configuration that created it"
        )


def restore(empty: LMState, tensors: dict[str, Tensor], meta: dict[str, Any], cfg: Any, mixers: Sequence[Any]) -> LMState:
    """Fill an empty state of the right number of rows with saved tensors.

    For tensors without data (on the meta device) only names, dtypes, shapes and positions are checked.
    Raises InputError if they do not fit the model or each other: a bank must have the checkpoints that its position implies.
    """
    rows, blank = len(empty), any(x.is_meta for x in tensors.values())
    positions, asking = [], "asking" in meta
    for key in ("position", "phase", *(["asking"] if asking else [])):
        values = meta.get(key)
        if not isinstance(values, list) or len(values) != rows or not all(map(is_count, values)):
            raise InputError(f"{key} must be a list of {rows} whole numbers")
        positions.append(np.array(values, np.int64))
    if asking and ((positions[2] > positions[0]) & (positions[2] != NEVER)).any():
        raise InputError("asking must be at most the row's position, or 2^62 - 1 in a row that does not ask")
    if asking and (positions[2] != NEVER).any() and not any(hasattr(mixer, "renew") for mixer in mixers):
        raise InputError('only rows of models with cache="blocks" ask')
    used: set[str] = set()

    def fill(name: str, like: Tensor, free: int | None) -> Tensor:
        if name not in tensors:
            raise InputError(f"tensor {name!r} is missing")
        used.add(name)
        x = tensors[name]
        if not isinstance(x, Tensor):
            raise InputError(f"{name!r} is a {type(x).__name__}, and must be a tensor")
        shape, want = list(x.shape), list(like.shape)
        if free is not None and len(shape) == len(want):
            want[free] = shape[free]
        if shape != want:
            raise InputError(f"tensor {name!r} has shape {tuple(x.shape)}, expected {tuple(want)}")
        if x.is_floating_point() != like.is_floating_point() or not x.is_floating_point() and x.dtype != like.dtype:
            raise InputError(f"tensor {name!r} is {x.dtype}, expected {like.dtype}")
        return x if x.is_meta else x.to(like.device, like.dtype)

    def layer(i: int, state: MixState) -> MixState:
        names = iter([name for name, _ in state.leaves()])

        def leaf(x: Any) -> Any:
            axis, name = state.open_axis(own := next(names)), f"layers.{i}.{own}"
            if isinstance(x, Store):
                counted = meta["counts"].get(name)
                if not isinstance(counted, list) or not all(map(is_count, counted)):
                    raise InputError(f"the counts of {name!r} must be a list of {rows} whole numbers")
                count = np.array(counted, np.int64)
                leaves = tuple(fill(f"{name}.{j}", y, a) for j, (y, a) in enumerate(zip(x.leaves, x.axes, strict=True)))
                width = {y.shape[a] for y, a in zip(leaves, x.axes, strict=True)}
                if count.shape != (rows,) or count.min(initial=0) < 0 or width != {int(count.max(initial=0))}:
                    raise InputError(f"the counts of {name!r} do not fit its tensors")
                return Store(leaves, x.axes, count)
            return fill(name, x, axis)

        return state.map(leaf)

    if (positions[1] >= cfg.phases).any():
        raise InputError(f"phase must be below {cfg.phases}, the number of writes in a segment")
    cuts: tuple[Cuts, ...] = ()
    if cfg.content and rows:
        used.add("cuts")
        _check_cuts(tensors.get("cuts"), meta.get("cuts"), rows)
        cuts = tuple(Cuts() for _ in range(rows)) if blank else read_cuts(tensors["cuts"], meta["cuts"], positions[0])
    where = RowPositions(positions[0], positions[1], cuts, positions[2] if asking else None)
    out = LMState(where, tuple(layer(i, s) for i, s in enumerate(empty.layers)), cfg)
    out = dataclasses.replace(out, inference=out.inference or any(x.is_inference() for x in tensors.values()))
    cut = len(tensors["cuts"]) if "cuts" in used else 0
    for i, (state, mixer) in enumerate(zip(out.layers, mixers, strict=True)):
        if not (state.may_fit(mixer, out.positions, cut) if blank else state.fits(mixer, out.positions)):
            raise InputError(f"layer {i} does not hold what position {out.position.tolist()} implies")
    extra = set(tensors) - used
    if extra:
        raise InputError(f"tensor {min(extra)!r} does not belong to this model")
    return out


def read_cuts(tokens: Any, counts: Any, position: np.ndarray) -> tuple[Cuts, ...]:
    """Each row's cuts from a saved state: whole numbers, ascending, before its position."""
    _check_cuts(tokens, counts, len(position))
    rows = np.split(tokens.cpu().numpy(), np.cumsum(counts)[:-1])
    for row, end in zip(rows, position, strict=True):
        if len(row) and not (row[0] >= 0 and row[-1] < end and (row[1:] > row[:-1]).all()):
            raise InputError(f"cuts must be ascending tokens before the row's position {end}")
    return tuple(Cuts(row) for row in rows)


def _check_cuts(tokens: Any, counts: Any, rows: int) -> None:
    fits = isinstance(tokens, Tensor) and tokens.dtype == torch.int64 and tokens.dim() == 1
    fits = fits and isinstance(counts, list) and len(counts) == rows and all(map(is_count, counts))
    if not fits or sum(counts) != len(tokens):
        raise InputError(f"cuts must be whole numbers in one row, with the count of each of {rows} rows")
