"""Training: `begin` or resume (`take_up`) a run, then `fit`."""

from .loop import fit
from .recipe import Recipe
from .setup import Run, begin, can_resume, check_same, take_up
from .trainer import Trainer

__all__ = ["Recipe", "Run", "Trainer", "begin", "can_resume", "check_same", "fit", "take_up"]
