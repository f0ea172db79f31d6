"""The reading: a session and a transformer of the same size read chunks in turn, and each is timed separately."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ..inference import Session
from ..models.lm import LM
from ..text import cut_table
from .panel import Panel
from .record import Record

if TYPE_CHECKING:
    from ..config.model import LMConfig
    from ..text import Tokenizer
    from .text import Reading

CHUNK = 1024  # tokens a turn
SHARE = 0.4  # maximum share of the whole time for the transformer
KEPT = 0.2  # share of the whole time that is reserved for the transformer, also if the time is short
LN2 = math.log(2)


def transformer_like(cfg: LMConfig, parameters: int) -> LM:
    """A transformer: full attention in every block, the same widths, and an MLP widened so that it has about `parameters`
    parameters."""
    plain = cfg.replace(pattern="a")
    matrices = 3 if cfg.mlp == "swiglu" else 2
    missing = parameters - LM(plain).parameters_count
    wider = round(missing / (matrices * cfg.depth * cfg.layer.d_model))
    return LM(plain.replace(mlp_dim=max(16, plain.hidden + wider))).eval()


@dataclass
class Turn:
    """One chunk that was read: its first token and end, seconds, and -log p (nats) of its tokens."""

    start: int
    end: int
    seconds: float
    nats: np.ndarray


def read_chunk(session: Session, ids: np.ndarray) -> Turn:
    """Appends `ids`; the time includes reading and scoring, for both readers."""
    start, clock = session.position, time.perf_counter()
    scores = session.append_scored(torch.from_numpy(ids))
    seconds = time.perf_counter() - clock
    return Turn(start, session.position, seconds, -scores.double().numpy())


def bits_per_byte(nats: np.ndarray, sizes: np.ndarray) -> float:
    """Bits per byte of some tokens; the first token of a session has no prediction and is not counted."""
    known = np.isfinite(nats)
    return float(nats[known].sum() / LN2 / max(1, sizes[known].sum()))


@torch.no_grad()
def from_nothing_but(
    model: LM, ids: np.ndarray, start: int, context: int, count: int, cuts: torch.Tensor | None = None
) -> np.ndarray:
    """Nats of tokens start..start+count, predicted from only the `context` tokens before them."""
    row = torch.from_numpy(ids[start - context : start + count])[None]
    logits, _ = model(row[:, :-1], cut=None if cuts is None else cuts[row[:, :-1]])
    return F.cross_entropy(logits[0, context - 1 :].float(), row[0, context:], reduction="none").double().numpy()


class Race:
    """Reads a text with a session and, within its share of the time, with a transformer.

    seconds   for both together. The share KEPT is reserved for the transformer; it gets up to SHARE if the session needs less
              than the rest.
    """

    def __init__(self, model: LM, tokenizer: Tokenizer, text: Reading, record: Record, seconds: float) -> None:
        self.model, self.text, self.record, self.seconds = model, text, record, seconds
        self.session, self.cuts = Session(model, tokenizer), cut_table(model.cfg, tokenizer)
        rival = transformer_like(model.cfg, model.parameters_count)
        record.facts["transformer_parameters"] = rival.parameters_count
        self.rival: Session | None = Session(rival, tokenizer)
        self.spent = 0.0  # seconds of the transformer
        window = model.cfg.widest_window
        self.contexts = [window, 4 * window, 16 * window] if window else []  # tokens; compared with the whole session
        self.sample = min(CHUNK, 2 * window)  # tokens, in every third turn
        record.facts |= {"chunk": CHUNK, "sample": self.sample}

    def run(self, panel: Panel) -> None:
        """Reads until the end of the text or of the time."""
        for session in (self.session, self.rival):
            if session is not None:
                session.fork().append(
                    torch.from_numpy(self.text.ids[:CHUNK])
                )  # the first calls of a process are slow and are not timed
        began, nats, counted, per_turn = time.perf_counter(), 0.0, 0, 0.0
        for start in range(0, len(self.text.ids), CHUNK):
            turn = read_chunk(self.session, self.text.ids[start : start + CHUNK])
            sizes = self.text.sizes[turn.start : turn.end]
            ms = 1000 * turn.seconds / (turn.end - turn.start)
            self.record.reader.add(turn.end, ms, self.session.nbytes, bits_per_byte(turn.nats, sizes))
            known = np.isfinite(turn.nats)
            nats, counted = nats + turn.nats[known].sum(), counted + int(sizes[known].sum())
            self.record.bits = float(nats / LN2 / counted) if counted else 0.0
            if start // CHUNK % 3 == 2:
                self._compare(turn)
            passed = time.perf_counter() - began
            per_turn = (passed - self.spent) / (start // CHUNK + 1)
            needed = per_turn * (len(self.text.ids) - turn.end) / CHUNK
            self._rival_turn(began, 1.1 * needed)
            panel.show()
            if time.perf_counter() - began + per_turn > self.seconds and turn.end < len(self.text.ids):
                self.record.notes.append(f"The time ended after {turn.end:,} of {len(self.text.ids):,} tokens.")
                break
        while self._rival_turn(began, 0.0):
            panel.show()
        self.rival = None  # frees its memory
        gc.collect()
        panel.show(last=True)

    def _rival_turn(self, began: float, needed: float) -> bool:
        """The transformer reads its next chunk if its share of the time and the remaining needs of the session allow it."""
        trace, rival = self.record.transformer, self.rival
        if rival is None or rival.position >= self.session.position:
            return False
        left = self.text.ids[rival.position : min(rival.position + CHUNK, self.session.position)]
        expected = (2 * trace.ms[-1] - trace.ms[-2] if len(trace.ms) > 1 else 0.0) / 1000 * CHUNK
        spent, now = self.spent + expected, time.perf_counter() - began + expected
        if spent > SHARE * self.seconds or (spent > KEPT * self.seconds and now + needed > self.seconds):
            return False
        turn = read_chunk(rival, left)
        self.spent += turn.seconds
        trace.add(turn.end, 1000 * turn.seconds / len(left), rival.nbytes)
        return True

    def _compare(self, turn: Turn) -> None:
        """One sample at the start of the chunk: bits per byte with the session, and with only the tokens directly before."""
        end = turn.start + self.sample
        if not self.contexts or turn.start < self.contexts[-1] or end > turn.end:
            return
        sizes = self.text.sizes[turn.start : end]
        sample = {"session": bits_per_byte(turn.nats[: self.sample], sizes)}
        for context in self.contexts:
            nats = from_nothing_but(self.model, self.text.ids, turn.start, context, self.sample, self.cuts)
            sample[str(context)] = bits_per_byte(nats, sizes)
        self.record.samples.append(sample)
        self.record.sampled.append(end)
