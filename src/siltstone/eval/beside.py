"""An imported decoder in other forms, beside a run of it: with the same weights, on the same texts.

full      full attention
yarn      full attention with rotations scaled to the length of the text (arXiv 2309.00071)
dynamic   full attention with the base of rotations theta * s^(K / (K - 2)), s the length over the trained one
window    sinks and a window, as large as fits into the bytes of the run's state after the same text
bm25      full attention to five passages of 64 tokens that BM25 chose, and to the question
reread    the run itself, which reads the passages that a question attends to once more before the question
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config.model import LMConfig
from ..errors import CheckpointError, InputError
from ..io.parse import is_count, parse_object
from ..models.checkpoint import read_beside
from ..models.lm import LM
from .retrieval import LACKING, RereadReader, RetrievalReader, bm25
from .tasks.reader import Reader

ARMS = ("full", "yarn", "dynamic", "window", "bm25", "reread")
SINKS = 4
ROOM = 64  # tokens behind a text: a question and its answer


@dataclass(frozen=True)
class Origin:
    """A decoder as it was imported. trained: tokens of the context that it was trained for."""

    cfg: LMConfig
    trained: int

    def keys(self, arm: str, length: int, state_bytes: int) -> dict[str, Any]:
        """The keys that an arm changes, for texts of `length` tokens and a state of so many bytes."""
        layer, stretch = self.cfg.layer, max(1.0, (length + ROOM) / self.trained)
        if arm == "yarn" and stretch > 1:
            return {"rope_scaling": {"type": "yarn", "factor": stretch, "original_max_position_embeddings": self.trained}}
        if arm == "dynamic" and stretch > 1:
            return {"rope_theta": layer.rope_theta * stretch ** (layer.key_dim / (layer.key_dim - 2))}
        if arm == "window":
            token = sum(4 * one.key_heads * (one.key_dim + one.val_dim) for one in self.cfg.layer_configs)
            return {"pattern": "w", "window": max(1, state_bytes // token - SINKS), "sinks": SINKS}
        return {}


def origin(folder: Path) -> Origin:
    """What a run folder says about the decoder that it was imported from. Raises InputError for a run that was not imported."""
    try:
        data = read_beside(folder, "pretrained.json")
        if data is None:
            raise FileNotFoundError
        found = parse_object(data)
        config = parse_object(found["files"]["config.json"])
        trained = config["max_position_embeddings"]
        if not is_count(trained) or not trained:
            raise ValueError("max_position_embeddings is no number of tokens")
        return Origin(LMConfig.from_dict(json.loads(found["keys"])), trained)
    except FileNotFoundError:
        raise InputError(
            f"{folder} was not imported from a decoder, so that there is no other form of it to set beside; "
            "leave out --beside, or give a run of `siltstone import`"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'pretrained.json'} does not describe a decoder: {error}; import it again") from None


def check(arms: list[str]) -> None:
    """Raises InputError for an unknown arm, and for bm25 without its package."""
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"--beside {arm!r:.40} is not known; choose of {', '.join(ARMS)}")
    if "bm25" in arms and bm25(["a"], "a") is None:
        raise InputError(f"{LACKING}, or leave out the arm bm25")


def reader(own: Reader, given: Origin | None, arm: str, length: int) -> Reader:
    """The reader of an arm. own: the run's, which has read the texts of this length. given: the decoder that the run was imported
    from; without one, bm25 is read by the run's own model, and the other forms of a decoder raise InputError.
    """
    assert isinstance(own.model, LM)
    if arm == "reread":
        return RereadReader(own.model, own.tokenizer, own.books)
    if given is None:
        if arm == "bm25":
            return RetrievalReader(own.model, own.tokenizer, own.books)
        raise InputError(
            f"the arm {arm} is another form of a decoder, and the model was not imported from one; leave it out (bm25 and reread "
            "can be set beside every model)"
        )
    with torch.device("meta"):
        twin = LM(given.cfg.replace(**given.keys(arm, length, own.largest)))
    twin.load_state_dict(own.model.state_dict(), assign=True)
    return (RetrievalReader if arm == "bm25" else Reader)(twin.eval(), own.tokenizer, own.books)
