"""A model of ours as a model of transformers, for `generate`, pipelines, Trainer and PEFT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from ...errors import CheckpointError, InputError
from ...inference.attending import ASKED, attends
from ...models.lm import LM
from .cache import SiltstoneCache
from .config import SiltstoneConfig

NOT_READ = {
    "position_ids": "positions belong to the state, and padding has none: give attention_mask",
    "inputs_embeds": "a model of Siltstone reads ids: give input_ids",
    "past_key_values": "the cache is named cache: give cache=SiltstoneCache()",
    "cache_position": "positions belong to the cache: leave it out",
    "token_type_ids": "a model of Siltstone has no types of tokens: leave it out",
    "output_attentions": "memories have no attention weights: leave it out",
    "output_hidden_states": "hidden states are not returned: use model.lm.features(ids)",
    "head_mask": "heads cannot be masked: leave it out",
}


class SiltstoneForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of Siltstone. Its weights have the names of an `LM`, whose modules it shares: `model.lm`."""

    config_class = SiltstoneConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _no_split_modules = ["Block"]
    _is_stateful = True  # transformers then refuses assisted decoding
    _supports_sdpa = True  # attention is computed by the layers of LM

    def __init__(self, config: SiltstoneConfig) -> None:
        super().__init__(config)
        self._cfg = config.cfg
        made = LM(self._cfg)
        self._modules.update(made._modules)
        self._buffers.update(made._buffers)
        self._non_persistent_buffers_set |= made._non_persistent_buffers_set
        self.post_init()

    @classmethod
    def of(cls, lm: LM, **more: Any) -> SiltstoneForCausalLM:
        """A model that shares the modules of an `LM`, in its mode. more: ids of special tokens, `cut_token_ids`."""
        if not isinstance(lm, LM):
            raise InputError(f"lm is a {type(lm).__name__}, and must be an st.LM; st.load(folder) makes one")
        with torch.device("meta"):
            made = cls(SiltstoneConfig.of(lm.cfg, **more))
        for name in ("_modules", "_buffers"):
            made.__dict__[name] = lm.__dict__[name]
        return made.train(lm.training)

    @property
    def lm(self) -> LM:
        """The model as an `LM`: the same modules and weights, for sessions, `st.save` and the doctor."""
        view = LM.__new__(LM)
        nn.Module.__init__(view)
        for name in ("_modules", "_buffers", "_parameters", "_non_persistent_buffers_set", "training"):
            view.__dict__[name] = self.__dict__[name]
        view.__dict__["cfg"] = self._cfg
        return view

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: SiltstoneCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One call.

        input_ids       int64 [B, T], the columns that the cache has not read
        attention_mask  [B, T or more], 0 = padding on any side: skipped. Only the last T columns are used
        cache           what an earlier call returned; it is updated
        labels          int64 [B, T], -100 = no loss; `shift_labels` and `num_items_in_batch` as Trainer gives them
        use_cache       whether to return a cache; default: that of the configuration, and not while training
        logits_to_keep  logits of the last columns only; 0: all
        returns         logits [B, T, vocab_size], loss and cache

        Raises InputError for arguments that do not fit, and for those that the model does not read.
        """
        counted = {"num_items_in_batch": kwargs.pop("num_items_in_batch", None), "shift_labels": kwargs.pop("shift_labels", None)}
        for name, value in kwargs.items():
            if name not in NOT_READ:
                raise InputError(f"{name} is not an argument of this model; leave it out")
            if value is not None and value is not False:
                raise InputError(f"{name} was given: {NOT_READ[name]}")
        if not isinstance(input_ids, Tensor):
            raise InputError(f"input_ids is a {type(input_ids).__name__}, and must be a tensor [batch, tokens]")
        if cache is not None and not isinstance(cache, SiltstoneCache):
            raise InputError(
                f"cache is a {type(cache).__name__}, and must be a SiltstoneCache: leave it out, or give "
                "siltstone.hf.SiltstoneCache()"
            )
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if cache is None and use_cache:
            cache = SiltstoneCache()
        lm, held = self.lm, None if cache is None else cache.state
        inplace = held is not None and not torch.is_grad_enabled()
        mask = _last_columns(attention_mask, input_ids)
        hidden, state = lm.features(input_ids, held, mask, None, inplace, self._cuts(input_ids))
        if cache is not None:
            cache.advance(state, input_ids.shape[1])
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = lm.head(hidden[:, logits_to_keep if isinstance(logits_to_keep, Tensor) else kept])
        loss = None
        if labels is not None or counted["shift_labels"] is not None:
            loss = self.loss_function(logits, labels, self._cfg.vocab_size, **counted)
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache if use_cache else None)

    def _cuts(self, ids: Tensor) -> Tensor | None:
        """The tokens that end a segment, for segments=content."""
        if not (self._cfg.content and self.config.cut_token_ids):
            return None
        return torch.isin(ids, torch.tensor(self.config.cut_token_ids, device=ids.device))

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> None:
        if generation_config.cache_implementation is not None:
            raise InputError(
                f"cache_implementation={generation_config.cache_implementation!r}: a model of Siltstone has a cache of its own; "
                "leave it out"
            )
        if model_kwargs.get("cache") is None and generation_config.use_cache:
            model_kwargs["cache"] = SiltstoneCache()

    def _prefill(self, input_ids: Tensor, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **more: Any) -> Any:
        """As in transformers; the last tokens of the prompt, and those that are written, choose blocks before every token."""
        cache, mask = (model_kwargs.get(name) for name in ("cache", "attention_mask"))
        if isinstance(cache, SiltstoneCache) and attends(self.lm):
            columns = getattr(generation_config, "_mask_length", input_ids.shape[1])  # a mask without padding is dropped
            read = input_ids.new_full((len(input_ids),), columns) if mask is None else mask.sum(1)
            cache.asks(self.lm, read - ASKED)
        base: Any = super()
        return base._prefill(input_ids, generation_config, model_kwargs, *args, **more)

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Weights that a folder lacks are never drawn at random: CheckpointError."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        for words, names in (
            ("lacks the weights", loading_info.missing_keys),
            ("has weights that the model does not have:", loading_info.unexpected_keys),
        ):
            if names:
                some = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                raise CheckpointError(f"the folder {words} {some}; its weights do not fit config.json")

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `LM` draws its weights, and a folder has all of them."""

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        setattr(self.lm, "embed", value)  # noqa: B010 - a tied output layer follows

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.unembed

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.unembed = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        found = super().resize_token_embeddings(*args, **kwargs)
        self._cfg = self._cfg.sized(found.num_embeddings)
        self.config.vocab_size = found.num_embeddings
        return found


def _last_columns(mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """The part of an attention mask that belongs to these ids, as bools."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2 or len(mask) != len(ids) or mask.shape[1] < ids.shape[1]:
        given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"attention_mask is {given}, and must be [batch, columns] with {len(ids)} rows and at least {ids.shape[1]} columns"
        )
    return mask[:, mask.shape[1] - ids.shape[1] :].bool()
