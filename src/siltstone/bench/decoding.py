"""Decoding: one token at a time, one session and many, against a transformer with a preallocated key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ..inference.program import CompiledStep
from ..inference.runtime import compiler, same
from ..layers.products import rounded, twin
from ..models.lm import LM
from ..models.stream_state import LMState
from .models import VOCAB, at_position, pair
from .timing import Row, interleaved

NO_COMPILER = "no C++ compiler was found"
FAR = 32768  # from here on, positions are a little below the one named, so that a cache needs no larger room during the rounds


class Programs:
    """The compiled steps of each model and runtime, made once: positions that need the same room share programs."""

    def __init__(self) -> None:
        self._made: dict[tuple[LM, str], CompiledStep] = {}

    def of(self, model: LM, runtime: str) -> CompiledStep | None:
        """None: eager steps."""
        if runtime not in ("compiled", "int8"):
            return None
        if (model, runtime) not in self._made:
            found = same(model)
            if runtime == "int8":
                found.blocks = twin(model.blocks, rounded)
            self._made[model, runtime] = CompiledStep(found, wait="all")
        return self._made[model, runtime]


class Decoder:
    """One model in one runtime, which takes one token after the other for rows of its own."""

    def __init__(self, model: LM, state: LMState, program: CompiledStep | None = None):
        self.model, self.state, self.rows, self.program = model, state, len(state), program
        self.ids = torch.randint(VOCAB, (self.rows,))

    @torch.no_grad()
    def __call__(self) -> None:
        """One token of each row."""
        if self.program is not None:
            self.state = self.program.step(self.ids, self.state)[1]
        else:
            self.state = self.model.step(self.ids, self.state, inplace=True)[1]


def runtimes() -> list[str]:
    """Those that this machine has."""
    return ["eager", "compiled", "int8"] if compiler() else ["eager"]


def at(position: int) -> int:
    """Where a session stands so that it stays near `position`."""
    return position - 160 if position >= FAR else position


def decoding(threads: int, rounds: int, positions: tuple[int, ...]) -> Iterator[Row]:
    """Sparse top-4 with constant segments of 256, at several positions."""
    ours, peer = pair(torch.float32, cache="sparse", gate="softmax")
    took: dict[int, dict[str, float]] = {}
    programs = Programs()
    for position in positions:
        decoders = {name: Decoder(ours, at_position(ours, at(position)), programs.of(ours, name)) for name in runtimes()}
        decoders |= {
            f"peer {name}": Decoder(peer, at_position(peer, at(position)), programs.of(peer, name))
            for name in runtimes()
            if name != "int8"
        }
        ms = took[position] = interleaved(decoders, 3 * rounds, 3)
        del decoders
        best = min(x for name, x in ms.items() if name.startswith("peer"))
        far = position >= 131072
        for name, aim in (("compiled", 20.0), ("eager", 12.0)):
            claim = f"decoding at {position}, sparse, {name}: against a key-value cache in its best runtime"
            if name in ms:
                ratio, more = best / ms[name], {"times": ms}
                yield Row(claim, threads, "fp32", ms[name], best, ratio, aim if far else None, unit="ms/token", more=more)
    last = took[positions[-1]]
    if "compiled" not in last:
        yield Row("decoding, compiled", threads, "fp32", None, None, None, None, note=NO_COMPILER)
        return
    yield from _floors(threads, rounds, ours, programs)
    yield from _flat(threads, rounds, positions, ours, programs)


def _floors(threads: int, rounds: int, model: LM, programs: Programs) -> Iterator[Row]:
    """Compiled steps against one product of each weight matrix with a vector, and 8 bits against these."""
    weights = [p.detach() for p in model.parameters() if p.dim() == 2]
    vectors = [torch.randn(w.shape[1]) for w in weights]

    def sweep() -> None:
        for w, v in zip(weights, vectors, strict=True):
            torch.mv(w, v)

    calls: dict[str, Callable[[], None]] = {
        name: Decoder(model, at_position(model, 8192), programs.of(model, name)) for name in runtimes()[1:]
    }
    ms = interleaved(calls | {"sweep": sweep}, 3 * rounds, 3)
    claim = "decoding at 8192, sparse, compiled: time over a sweep of mv over all weights"
    ratio, unit = ms["compiled"] / ms["sweep"], "ms/token"
    yield Row(claim, threads, "fp32", ms["compiled"], ms["sweep"], ratio, 1.5, unit=unit, at_most=True)
    claim = "decoding at 8192, sparse: time in int8 over that in compiled fp32"
    ratio = ms["int8"] / ms["compiled"]
    yield Row(claim, threads, "int8", ms["int8"], ms["compiled"], ratio, 0.7, unit=unit, at_most=True)


def _flat(threads: int, rounds: int, positions: tuple[int, ...], sparse: LM, programs: Programs) -> Iterator[Row]:
    """Speed far into a text over that at its beginning, for banks of three kinds."""
    first, last = positions[0], positions[-1]
    kinds: dict[str, dict[str, Any]] = {
        "sparse": {},
        "logarithmic, gated": dict(cache="gated", segments="logarithmic"),
        "dense, gated": dict(cache="gated", gate="softmax"),
    }
    for kind, keys in kinds.items():
        model = pair(torch.float32, **keys)[0] if keys else sparse
        program = programs.of(model, "compiled")
        decoders = {str(p): Decoder(model, at_position(model, at(p)), program) for p in (first, last)}
        ms = interleaved(decoders, 3 * rounds, 3)
        near, far = ms[str(first)], ms[str(last)]
        claim = f"decoding speed at {last} over that at {first}, {kind}, compiled"
        yield Row(claim, threads, "fp32", far, near, near / far, 0.95, unit="ms/token")


def ragged(model: LM, rows: int, position: int) -> LMState:
    """Rows whose positions are spread over the half before `position`."""
    places = torch.linspace(position // 2, position, rows).long().tolist()
    return LMState.cat([at_position(model, at(p)) for p in places])


def sessions(threads: int, rounds: int, position: int) -> Iterator[Row]:
    """16 and 64 sessions of ragged ages in one batch, against one eager session, and against the roofline."""
    model = pair(torch.float32, cache="sparse", gate="softmax")[0]
    name = "compiled" if compiler() else "eager"
    program = Programs().of(model, name)
    decoders: dict[str, Any] = {"one": Decoder(model, at_position(model, at(position)))}
    decoders |= {str(rows): Decoder(model, ragged(model, rows, position), program) for rows in (16, 64)}
    floors = {str(rows): products(model, rows) for rows in (16, 64)}
    ms = interleaved(decoders | {f"floor {rows}": call for rows, call in floors.items()}, 2 * rounds, 2)
    speed = bandwidth()
    for rows, aim in ((16, 6.0), (64, 10.0)):
        each = ms[str(rows)] / rows
        claim = f"{rows} sessions at up to {position}, sparse, {name}: tokens/s against one eager session"
        yield Row(claim, threads, "fp32", each, ms["one"], ms["one"] / each, aim, unit="ms/token")
        roof = ms[f"floor {rows}"] + rows * touched(model) / speed * 1e3
        claim = f"{rows} sessions at up to {position}, sparse, {name}: time of a step over the roofline"
        note = f"the weights' products at {rows} rows, and the bytes of state that a step reads at {speed / 1e9:.1f} GB/s"
        yield Row(claim, threads, "fp32", ms[str(rows)], roof, ms[str(rows)] / roof, 2.0, at_most=True, note=note)


def products(model: LM, rows: int) -> Callable[[], None]:
    """The products of all weight matrices with as many rows, and nothing else."""
    pairs = [(torch.randn(rows, p.shape[1]), p.detach()) for p in model.parameters() if p.dim() == 2]

    @torch.no_grad()
    def run() -> None:
        for x, w in pairs:
            F.linear(x, w)

    return run


def touched(model: LM) -> int:
    """Bytes of a row's state that a step of a sparse layer reads: the window, the online matrix and `top_k` checkpoints."""
    cfg = model.cfg.layer
    window = cfg.window * cfg.key_heads * (cfg.key_dim + cfg.val_dim)
    return 4 * model.cfg.depth * (window + (cfg.top_k + 1) * cfg.heads * cfg.key_dim * cfg.val_dim)


def bandwidth() -> float:
    """Memory bandwidth in bytes a second: the sum of a tensor far larger than the CPU caches."""
    x = torch.ones(64 * 1024 * 1024)
    return x.numel() * 4 / (interleaved({"sum": lambda: x.sum()}, 5)["sum"] / 1e3)
