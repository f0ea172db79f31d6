"""Configuration: the keys of a layer and of a model, their checks, and presets."""

from .layer import LayerConfig
from .model import LMConfig

__all__ = ["LMConfig", "LayerConfig"]
