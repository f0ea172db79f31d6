"""The interface of update rules.

A read is a chain of matrices, the *read factors*: the query passes through read factor 0, a stateless activation, read
factor 1, and so on. A matrix memory has one read factor, an MLP memory two; a vector memory is a matrix of one row, read with
the query 1. `read_factors` returns the matrices; `activation` is applied between them and after the last. With this interface,
gated outputs, blended weights and sparse reads are written once for all rules (see ops/bank_read.py).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..config.registry import NoOptions
from ..ops.chunked import Reader
from ..ops.upcast import Placed, upcast, upcasting
from ..state.tree import State

Inputs = dict[str, Tensor]
MOST = 4096  # upper limit of: writes of an inner batch, slots, expansion (hidden units / K)


def spans(heads: int, each: int = 1) -> Tensor:
    """Initial logits of forget gates, `each` for every head: memory spans from about twenty to a few hundred writes."""
    found = torch.linspace(3.0, 6.0, heads).repeat_interleave(each)
    return found.to(torch.empty(0).device)  # transformers hides linspace from `with torch.device(...)`


def biased(width: int, bias: Tensor) -> nn.Linear:
    """A linear layer from `width` numbers with initial biases."""
    layer = nn.Linear(width, len(bias))
    with torch.no_grad():
        layer.bias.copy_(bias)
    return layer


class ScanOutput:
    """A memory during a call: readable after every write, and its states at the ends of the segment chunks.

    ends      State with leaves [G, S, ...]: the state after each segment chunk
    readers   one Reader per read factor
    """

    def __init__(self, ends: State, *readers: Reader):
        self.ends, self.readers = ends, readers

    def read(self, factor: int, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, in] times the matrices of one read factor in force at each query: [..., out]."""
        return self.readers[factor].read(z, group)

    def carried(self, group: slice, states: State, before: State | None, after: State) -> State | None:
        """The result of applying the writes of some groups (one segment chunk each) to other states [R, X, ...].

        The same writes turn the online state `before` into `after` [R, ...] (None: the rule's initial state, which is 0).
        Returns None if this rule must replay the writes instead.
        """
        mine, now = list(vars(states).values()), list(vars(after).values())
        if len(self.readers) != 1 or len(mine) != 1:
            return None
        apart = mine[0] if before is None else mine[0] - next(iter(vars(before).values())).unsqueeze(1)
        moved = self.readers[0].propagate(group, apart)
        return None if moved is None else type(states)(*[moved + now[0].unsqueeze(1)])


class Memory(Placed):
    """An update rule. Subclasses define `name`, `init`, `queries`, `inputs`, `scan`, `read_factors`; all methods are pure.

    factors_count    number of matrices that a read passes through
    read_is_linear   whether blending weights equals blending outputs
    adds_up          whether the differences of states from the initial state can be summed, as in merged checkpoints
    normalizer       number of last columns of a matrix that divide the others when it is read
    merges           shape of a write's log decays, (H,), (H, in) or (H, in, out), if a write changes a read factor's matrix by
                     S <- e^f S + ... only; else None
    chunk            write slots that a scan processes as one block
    bounded          whether bounded inputs keep the state bounded after any number of writes
    variants         settings of the options, besides the defaults, that tables and long runs also show
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    bounded: ClassVar[bool] = True
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    factors_count: ClassVar[int] = 1
    read_is_linear: bool = True
    adds_up: ClassVar[bool] = True
    normalizer: int = 0
    merges: tuple[int, ...] | None = None
    chunk: int = 64

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__()
        self.cfg, self.options = cfg, options
        self.heads, self.key_dim, self.val_dim = cfg.heads, cfg.key_dim, cfg.val_dim

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Raise ConfigError if this rule cannot work with the layer's other keys."""

    @classmethod
    def align(cls, options: Any) -> int:
        """The slot of a write must equal the number of writes since the cut, modulo this number."""
        return 1

    @abstractmethod
    def init(self, batch: int) -> State:
        """The state before any write, leaves [batch, ...]."""

    @abstractmethod
    def queries(self, x: Tensor) -> Tensor:
        """x [R, T, D] -> queries [R, T, H, in of read factor 0]."""

    @abstractmethod
    def inputs(self, c: Tensor) -> Inputs:
        """Compressed tokens [R, M, D] -> the rule's keys, values and gates, each [R, M, ...]."""

    @abstractmethod
    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """Write S segment chunks one after the other into G independent states.

        inputs [G, S, L, ...], valid bool [G, S, L] (None: all), skip int [G, S] empty slots before a segment chunk's first
        write, state leaves [G, ...]. An invalid write changes nothing.
        """

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> State:
        """One write, inputs [B, ...], into states [B, ...]. Rules with an inner batch override this.

        begins: bool [B], the write is the first of its inner batch (`align` writes since the cut); None: every write is.
        """
        first = next(iter(inputs.values()))
        skip = torch.zeros(len(first), 1, dtype=torch.int64, device=first.device)
        one = {name: x[:, None, None] for name, x in inputs.items()}
        return self.scan(one, None, skip, state).ends.map(lambda x: x[:, 0])

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor] | None:
        """The pair that a write stores: the key as a query [..., H, in of read factor 0], and the value [..., H, V].

        None: this rule has no keys and values.
        """
        return None

    def log_decay(self, inputs: Inputs) -> Tensor:
        """The log decays of each write, [..., *merges], for rules that merge."""
        raise NotImplementedError(f"{type(self).__name__} sets `merges`, so it must define log_decay(inputs)")

    @abstractmethod
    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """The matrices of each read factor, [..., H, in, out], of a state with leaves [..., ...]."""

    def settled(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Sums of two states' matrices, one per read factor [..., H, N, in, out] -> the matrices of the merged checkpoint."""
        return sums

    def activation(self, factor: int, z: Tensor, query: Tensor) -> Tensor:
        """Applied after a read factor: z [..., out] -> the next read factor's input, or, after the last one, the result."""
        return z


def logits(gates: nn.Module, c: Tensor) -> Tensor:
    """c W + b in float32 or wider; b is added in that precision: bfloat16 steps near -6 are 1/32, 3 % of such a gate's decay."""
    with upcasting(c):
        return upcast(gates(c))
