"""The tokenizer of a run folder as a tokenizer of transformers: the same ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from transformers import PreTrainedTokenizerFast

from ...errors import TokenizerError
from ...io import atomic_file
from ...text import ByteTokenizer, Tokenizer, tokenizer_from_json
from ...text.pipeline import byte_letters
from ...text.settings import ROLES
from ..tokens import FILE, text_of

SPECIALS = ("<bos>", "<eos>", "<pad>")  # of the byte tokenizer


class SiltstoneTokenizer(PreTrainedTokenizerFast):
    """Reads and writes the `tokenizer.json` of a run folder, also that of the byte tokenizer. Pads on the left.

    tokenizer_file    the file, or
    tokenizer         a tokenizer of ours

    The ids of a text are those of `tokenizer.encode(text)`; no token is added. But special tokens in a text are read as such, as
    transformers does; split_special_tokens=True reads them as text. Raises TokenizerError.
    """

    vocab_files_names = {"tokenizer_file": FILE}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, tokenizer_file: str | None = None, tokenizer: Tokenizer | None = None, **settings: Any) -> None:
        for name in ("add_bos_token", "add_eos_token"):  # tokenizer.json says what is added
            settings.pop(name, None)
        if tokenizer is None:
            text = None if tokenizer_file is None else text_of(Path(tokenizer_file).parent, Path(tokenizer_file).name)
            if text is None:
                raise TokenizerError(f"{tokenizer_file} is no file; give the tokenizer.json of a run folder, or tokenizer=")
            tokenizer = tokenizer_from_json(text)
        self.ours = tokenizer
        inner = _inner(tokenizer)
        for role in ROLES:
            token = getattr(tokenizer, f"{role}_id")
            if token is not None:
                settings.setdefault(f"{role}_token", inner.id_to_token(token))
        if template := getattr(tokenizer, "chat_template", None):
            settings.setdefault("chat_template", template)
        super().__init__(tokenizer_object=inner, **settings)

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Without the file among the resolved ones: transformers expects the form of the library `tokenizers` there."""
        found = dict(resolved_vocab_files)
        return super()._from_pretrained(found, *args, tokenizer_file=found.pop("tokenizer_file", None), **kwargs)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """The arguments as they are: `__init__` reads the file."""
        return kwargs

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As any tokenizer, with the chat template in `tokenizer_config.json`, where a run folder has it."""
        if len(self) > self.ours.vocab_size:
            raise TokenizerError(
                f"{len(self) - self.ours.vocab_size} tokens were added, which a run folder has no place for; add them to "
                "tokenizer.json and import it again"
            )
        return super().save_pretrained(save_directory, *args, **{"save_jinja_files": False} | kwargs)

    def _save_pretrained(
        self, save_directory: Any, file_names: tuple[str, ...], legacy_format: Any = None, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        path = Path(save_directory) / ((filename_prefix + "-" if filename_prefix else "") + FILE)
        with atomic_file(path) as file:
            file.write(self.ours.to_json().encode("utf-8"))
        return (*file_names, str(path))


def _inner(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer of the library `tokenizers` with the same ids."""
    if isinstance(tokenizer, ByteTokenizer):
        made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_letters(), []))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens(list(SPECIALS))
        return made
    inner = getattr(tokenizer, "_inner", None)
    if not isinstance(inner, tokenizers.Tokenizer):
        raise TokenizerError(f"tokenizer is a {type(tokenizer).__name__}; transformers can use those of run folders alone")
    return tokenizers.Tokenizer.from_str(inner.to_str())
