"""What can be chosen: the keys of a layer and of a model, their checks, and sizes by name."""

from .layer import LayerConfig
from .model import LMConfig

__all__ = ["LMConfig", "LayerConfig"]
