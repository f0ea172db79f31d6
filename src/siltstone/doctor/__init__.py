"""Examination of a model: the same text read in many ways, the gates of its caches, the reach of its gradients.

`siltstone.doctor.examine(model, tokenizer, ids)` gives a `Record`; `siltstone doctor RUN` makes a report of it.
"""

from .record import Record
from .run import examine

__all__ = ["Record", "examine"]
