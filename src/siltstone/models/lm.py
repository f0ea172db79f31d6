"""The language model: embedding, blocks, RMSNorm, logits. `LMConfig.pattern` makes it a memory model, a window-only model, a
transformer or a hybrid of them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.model import LMConfig
from ..errors import ConfigError, InputError
from ..layers.block import Block
from ..layers.blocks import BlockAttention
from ..ops.eager import eagerly
from ..ops.norm import RMSNorm
from ..ops.taking_part import taking_part
from ..ops.transforms import batched
from ..ops.upcast import Placed
from ..schedule.context import Context
from . import entry
from .entry import Before, Opt
from .step import Prepared, prepare
from .stream_state import LMState

ASKED = 32  # tokens of a call in which rows choose blocks before every token


class Tied(nn.Linear):
    """x W^T with the parameter W of an embedding; a separate module, so that hooks, wrappers and adapters can be attached."""

    def __init__(self, embed: nn.Embedding):
        nn.Module.__init__(self)
        self.in_features, self.out_features = embed.embedding_dim, embed.num_embeddings
        self.bias = None
        self.share(embed)

    def share(self, embed: nn.Embedding) -> None:
        """Use the weights of this embedding from now on."""
        self._embed = [embed]  # in a list, as it is a submodule of the model and not of this module

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W [vocab_size, D]."""
        return self._embed[0].weight


class LM(Placed):
    """`logits, state = model(ids, state)`; any split of a text into calls gives the same logits."""

    def __init__(self, cfg: LMConfig):
        super().__init__()
        if not isinstance(cfg, LMConfig):
            raise ConfigError(
                f"cfg is a {type(cfg).__name__}, and must be an LMConfig; give one that st.presets.tiny(vocab_size) or "
                "st.LMConfig.from_dict(keys) makes"
            )
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.layer.d_model)
        made = zip(cfg.kinds, cfg.layer_configs, cfg.routing_shared, strict=True)
        self.blocks = nn.ModuleList(Block(cfg, *one) for one in made)
        self.norm = RMSNorm(cfg.layer.d_model, cfg.norm_eps)
        self.unembed = Tied(self.embed) if cfg.tie else nn.Linear(cfg.layer.d_model, cfg.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embed.weight, std=0.02)
        if not self.cfg.tie:
            nn.init.normal_(self.unembed.weight, std=0.02)
        for block in self.blocks:
            for name, p in block.named_parameters():
                if name.endswith(("mix.out.weight", "down.weight")):
                    nn.init.normal_(p, std=0.02 / (2 * self.cfg.depth) ** 0.5)
                elif p.dim() == 2 and name.endswith(".weight"):
                    nn.init.normal_(p, std=p.shape[1] ** -0.5)
            if isinstance(block.mix, BlockAttention):
                block.mix.begin()

    def __setattr__(self, name: str, value: Any) -> None:
        """As `nn.Module`; a new embedding is also used by the tied output layer."""
        super().__setattr__(name, value)
        if name == "embed" and isinstance(value, nn.Embedding) and "unembed" in self._modules:
            for part in self.unembed.modules():
                if isinstance(part, Tied):
                    part.share(value)

    @property
    def _layers(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    @property
    def parameters_count(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())

    def init_state(self, batch: int, phase: Any = None) -> LMState:
        """The state before the first token. phase [batch]: writes by which a row's first segment is shorter than `segment`."""
        return entry.init_state(self.cfg, [b.mix for b in self._layers], batch, phase)

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> LMState:
        """A state from `state.tensors()` and `state.meta()`; InputError if they do not fit this model."""
        return entry.load_state(self.cfg, [b.mix for b in self._layers], tensors, meta)

    @eagerly
    def features(
        self, ids: Tensor, state: Before = None, mask: Opt = None, reset: Opt = None, inplace: bool = False, cut: Opt = None
    ) -> tuple[Tensor, LMState]:
        """ids [B, T] -> normalised hidden states [B, T, D] and the state after; see `forward`."""
        self.check_ids(ids)
        entry.check(self.cfg, state, self.like)
        state = self.init_state(len(ids)) if state is None else state.normal()
        if entry.single(ids, mask, reset):
            given = entry.enter_single(self.cfg, (len(ids), 1), state, cut)
            return self._step(ids[:, 0], prepare([b.mix for b in self._layers], state, given, ids.device, inplace))
        if ids.shape[1] > ASKED and state.positions.from_here().any():
            return self._asked(ids, state, (mask, reset, cut), inplace)
        packed = entry.enter(self.cfg, (ids.shape[0], ids.shape[1]), state, mask, reset, cut)
        if not packed.width:
            return taking_part(self.embed(ids) * 0.0, self.parameters()), state
        context = Context(packed, ids.device)
        x = self.embed(packed.gather(ids))
        layers = []
        for block, before in zip(self._layers, state.layers, strict=True):
            x, after = block(x, packed.enter(before, block.mix.init), context)
            layers.append(packed.leave(before, after))
        return packed.scatter(self.norm(x)), LMState(packed.positions_after(state.positions), tuple(layers), self.cfg)

    def _asked(self, ids: Tensor, state: LMState, flags: tuple[Opt, Opt, Opt], inplace: bool) -> tuple[Tensor, LMState]:
        """`features` in short calls: each token has chosen blocks of its own, which need much memory."""
        entry.enter(self.cfg, (ids.shape[0], ids.shape[1]), state, *flags)  # raises what the whole call would raise
        found = []
        for first in range(0, ids.shape[1], ASKED):
            part = slice(first, first + ASKED)
            mask, reset, cut = (None if x is None else x[:, part] for x in flags)
            hidden, state = self.features(ids[:, part], state, mask, reset, inplace or first > 0, cut)
            found.append(hidden)
        return torch.cat(found, 1), state

    def step(
        self, ids: Tensor, state: Before = None, active: Opt = None, cut: Opt = None, reset: Opt = None, inplace: bool = False
    ) -> tuple[Tensor, LMState]:
        """One token of each row, at positions of their own: the logits and the state that `forward` gives.

        ids      int64 [B]
        active   bool [B], rows that take a token (None: all); the others' states and positions stay, their logits mean nothing
        cut      bool [B], as in `forward`
        reset    bool [B], as in `forward`
        inplace  the caller gives `state` up, and it may be updated in place
        returns  logits [B, vocab_size] and the state after

        Raises InputError as `forward` does.
        """
        if not isinstance(ids, Tensor) or ids.dim() != 1:
            given = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"ids must be an integer tensor [batch], one token per row, and {given} was given")
        self.check_ids(ids.unsqueeze(1))
        state, given = entry.enter_step(self, self.like, ids, state, active, cut, reset)
        ready = prepare([b.mix for b in self._layers], state, given, self.like.device, inplace)
        hidden, state = self._step(ids, ready)
        return self.head(hidden)[:, 0], state

    def _step(self, ids: Tensor, ready: Prepared) -> tuple[Tensor, LMState]:
        """ids [B] -> normalised hidden states [B, 1, D] and the state after."""
        x, layers, context = self.embed(ids).unsqueeze(1), [], ready.context(self.like.dtype)
        for block, before, empty in zip(self._layers, ready.layers, ready.empty, strict=True):
            x, after = block(x, before, context, empty)
            layers.append(after)
        return self.norm(x), LMState(ready.after, tuple(layers), self.cfg)

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> logits [..., vocab_size]."""
        return self.unembed(hidden)

    @eagerly
    def forward(
        self, ids: Tensor, state: Before = None, mask: Opt = None, reset: Opt = None, inplace: bool = False, cut: Opt = None
    ) -> tuple[Tensor, LMState]:
        """One call.

        ids      int64 [B, T], T >= 0
        state    the state that an earlier call returned (None: no earlier token)
        mask     bool [B, T], False = padding: skipped, as if it were absent (None: all valid)
        reset    bool [B, T], True = a new document begins with this token: the row forgets everything before it
        inplace  `state` may be updated in place; the caller must not use it again
        cut      bool [B, T], True = in every memory layer the write that this token is part of ends its segment
                 (segments="content" only; no effect at padding and sinks)
        returns  logits [B, T, vocab_size] (without meaning at padding) and the state after

        Raises InputError for ids out of range, for shapes that do not fit, and for cuts without segments="content".
        """
        hidden, state = self.features(ids, state, mask, reset, inplace, cut)
        return self.head(hidden), state

    def check_ids(self, ids: Tensor) -> None:
        """InputError unless ids are whole numbers [batch, tokens] from 0 to vocab_size - 1 (the range is checked on the CPU)."""
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
            given = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"ids must be an integer tensor [batch, tokens], and {given} was given")
        if ids.numel() and ids.device.type == "cpu" and not batched(ids):
            low, high = (int(x) for x in ids.aminmax())
            if low < 0 or high >= self.cfg.vocab_size:
                bad = low if low < 0 else high
                raise InputError(
                    f"ids contain {bad}, and the model's vocab_size={self.cfg.vocab_size} allows 0 to {self.cfg.vocab_size - 1}"
                )
