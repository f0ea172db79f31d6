"""Run folders in transformers: configuration, model, cache and tokenizer. Importing this package registers them."""

from __future__ import annotations

from ..library import transformers

library = transformers()  # before the modules below, which import it

from .cache import SiltstoneCache  # noqa: E402
from .config import SiltstoneConfig  # noqa: E402
from .model import SiltstoneForCausalLM  # noqa: E402
from .tokenizer import SiltstoneTokenizer  # noqa: E402

__all__ = ["SiltstoneCache", "SiltstoneConfig", "SiltstoneForCausalLM", "SiltstoneTokenizer"]

library.AutoConfig.register(SiltstoneConfig.model_type, SiltstoneConfig, exist_ok=True)
library.AutoModelForCausalLM.register(SiltstoneConfig, SiltstoneForCausalLM, exist_ok=True)
library.AutoTokenizer.register(SiltstoneConfig, SiltstoneTokenizer, exist_ok=True)
