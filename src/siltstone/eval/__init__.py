"""How well a model predicts text."""

from .position import by_position
from .stream import Score, score_documents, stream_nats

__all__ = ["Score", "by_position", "score_documents", "stream_nats"]
