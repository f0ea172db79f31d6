"""Long short-term memory over the compressed tokens: a vector state h and a cell s, both [H, V]; h is read as it is.

    i, f, o = sigmoid(W c + U h), g = tanh(W_g c + U_g h), s <- f * s + i * g, h <- o * tanh(s)

c is RMS-normalised first; the read is normalised per head like every memory's. Source: Hochreiter and Schmidhuber 1997 with
the forget gate of Gers et al. 2000, in torch's form (`torch.nn.LSTM`, which runs it). State: 2 * H * V floats.
Cost: 4 * (H * V)^2, one write after the other.

For: following a state, and counting.
Can: track states that depend on the state before, as automata do, parity included; count in its cells (arXiv 1805.04908); and
forget by its gates.
Cannot: be asked for a key: every query gets the same H * V numbers, and recall is bounded by them. Writes cannot run side by
side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..config.layer import LayerConfig
from ..ops.transforms import at_work, plain_recurrences
from ..ops.widely import wide, widely
from .vector import FusedMemory, VectorState, whole


@dataclass
class CellState(VectorState):
    """hidden, cell [B, H, V], float32 or wider."""

    cell: Tensor


class LSTM(FusedMemory):
    """h, s <- LSTM(c, h, s). Heads begin by remembering twenty to some hundred writes (arXiv 1804.11188, section 2)."""

    name: ClassVar[str] = "lstm"

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        width = self.heads * self.val_dim
        self.lstm = nn.LSTM(cfg.d_model, width, batch_first=True)
        with torch.no_grad():
            keep = torch.linspace(3.0, 6.0, self.heads).repeat_interleave(self.val_dim)
            self.lstm.get_parameter("bias_ih_l0")[: 2 * width] = torch.cat([-keep, keep])

    def init(self, batch: int) -> CellState:
        """Zeros."""
        return CellState(self._zeros(batch), self._zeros(batch))

    def run(self, token: Tensor, state: VectorState, count: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """See FusedMemory.run."""
        before = cast(CellState, state)
        whole(token)
        start = before.hidden.flatten(1)[None], before.cell.flatten(1)[None]
        if count is None:
            with widely(token), plain_recurrences():
                after, (_, cell) = self.lstm(token, start)
            return wide(after), {"cell": wide(cell[0]).unflatten(-1, (self.heads, self.val_dim))}
        if at_work() or count.is_meta:
            return self._singly(token, before, count)
        packed = pack_padded_sequence(token, count.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        with widely(token):
            out, (_, cell) = self.lstm(packed, start)
        after, _ = pad_packed_sequence(out, batch_first=True, total_length=token.shape[1])
        cell = wide(cell[0]).unflatten(-1, (self.heads, self.val_dim))
        return wide(after), {"cell": cell.where((count > 0)[:, None, None], before.cell)}

    def _singly(self, token: Tensor, before: CellState, count: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same a token at a time: torch packs no tensors of torch.func's, and none without numbers."""
        now, after, cells = (before.hidden.flatten(1)[None], before.cell.flatten(1)[None]), [], [before.cell.flatten(1)]
        for one in token.split(1, 1):
            with widely(one), plain_recurrences():
                out, now = self.lstm(one, now)
            after.append(wide(out))
            cells.append(wide(now[1][0]))
        cell = torch.stack(cells).gather(0, count[None, :, None].expand(1, *cells[0].shape))[0]
        return torch.cat(after, 1), {"cell": cell.unflatten(-1, (self.heads, self.val_dim))}
