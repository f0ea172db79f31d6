"""Evaluation: bits per byte of text under a model."""

from .position import by_position
from .stream import Score, score_documents, stream_nats

__all__ = ["Score", "by_position", "score_documents", "stream_nats"]
