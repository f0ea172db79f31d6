"""The configuration of a run folder, as transformers reads it."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ...config.model import LMConfig
from ...errors import ConfigError
from ...models.config_file import NAME


class SiltstoneConfig(PreTrainedConfig):
    """The keys of an `LMConfig` under one name, `siltstone`, and ids of special tokens.

    siltstone      the keys: what `LMConfig.to_dict()` returns; `cfg` is the LMConfig of them
    cut_token_ids  with segments=content, the tokens that end a segment
    Raises ConfigError for keys that cannot work, and for keys of the model beside `siltstone`.
    """

    model_type: ClassVar[str] = NAME
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache"]

    siltstone: dict[str, Any] | None = None
    cut_token_ids: list[int] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.siltstone is not None:
            self.tie_word_embeddings = self.cfg.tie
            if flat := sorted((kwargs.keys() & self.cfg.to_dict().keys()) - {"tie"}):
                raise ConfigError(f"{flat[0]!r} is a key of the model: give it in siltstone={{...}}, with the others")
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, cfg: LMConfig, **more: Any) -> SiltstoneConfig:
        """The configuration of a model of ours. more: ids of special tokens, `cut_token_ids`."""
        return cls(siltstone=cfg.to_dict(), **more)

    @property
    def cfg(self) -> LMConfig:
        """The model's configuration."""
        if self.siltstone is None:
            raise ConfigError("the configuration has no keys of a model: give siltstone={...}, or SiltstoneConfig.of(cfg)")
        return LMConfig.from_dict(self.siltstone, stored=True)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._keys["vocab_size"]

    @vocab_size.setter
    def vocab_size(self, size: int) -> None:
        self.siltstone = self._keys | {"vocab_size": size}

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self._keys["d_model"]

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return self.cfg.depth

    @property
    def num_attention_heads(self) -> int:
        """Number of heads of queries."""
        return self.cfg.layer.heads

    @property
    def num_key_value_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.cfg.layer.key_heads

    @property
    def _keys(self) -> dict[str, Any]:
        return self.cfg.to_dict() if self.siltstone is None else self.siltstone
