"""Checkpoints stored in bfloat16 and int8, for the shipped model on held-out text: bytes saved, and the effect of rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from ..demo import demo_run, text
from ..eval.stream import stream_nats
from ..models.checkpoint import load
from ..models.lm import LM
from .timing import Row


def rounded(tokens: int, span: int = 8192) -> Iterator[Row]:
    """Bytes of the checkpoints against float32, with constant segments (all are kept); the note has the change in predictions."""
    model, tokenizer = load(demo_run())
    found = text.reading(tokenizer, tokens)
    pieces = [found.ids[at : at + span] for at in range(0, len(found.ids) - 1, span)]
    size = sum(int(found.sizes[at + 1 : at + span].sum()) for at in range(0, len(found.ids) - 1, span))
    base: tuple[float, torch.Tensor, int] | None = None
    for kind in ("float32", "bfloat16", "int8"):
        other = LM(model.cfg.replace(segments="constant", checkpoint_dtype=kind)).eval()
        other.load_state_dict(model.state_dict())
        nats = sum(float(np.nansum(x)) for _, _, x in stream_nats(other, pieces, 512, 4))
        with torch.no_grad():
            logits, state = other(torch.from_numpy(pieces[0][:4096])[None])
        bits, kept = nats / math.log(2) / size, state.parts()["checkpoints"]
        if base is None:
            base = bits, logits, kept
            continue
        far = float((logits - base[1]).abs().max())
        note = f"{bits:.5f} bits per byte against {base[0]:.5f}; logits move by {far:.4f} of {float(base[1].abs().max()):.1f}"
        claim = f"checkpoints in {kind}, the model that ships: bytes against float32"
        yield Row(claim, torch.get_num_threads(), kind, kept, base[2], base[2] / kept, None, unit="bytes", note=note)
