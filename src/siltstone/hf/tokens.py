"""The tokenizer of a pretrained model: from its folder, or from one that transformers has made."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from ..errors import TokenizerError
from ..io.parse import parse_object
from ..io.regular import is_folder, read_limited, reason
from ..text import Tokenizer, load_tokenizer, tokenizer_from_json
from ..text.library import LARGEST, quoted
from ..text.pieces import BYTE, SPACE
from ..text.settings import END, ROLES
from .library import LOCAL, reading

FILE, SETTINGS, TEMPLATE, SPECIALS = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"
CLASS, PLAIN = "SiltstoneTokenizer", "PreTrainedTokenizerFast"  # the second loads any tokenizer.json as it is
SCORED = "tok*.bin"  # of llama2.c
SLOW = ("tokenizer.model", "vocab.json", "merges.txt", "tekken.json", "vocab.txt")  # read by transformers
FILES = (SETTINGS, SPECIALS, TEMPLATE)


def text_of(folder: Path, name: str) -> str | None:
    """The content of a file of a tokenizer; None if there is none. Raises TokenizerError."""
    try:
        return read_limited(folder / name, LARGEST).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{folder / name} cannot be read: {quoted(reason(error))}") from error


def of_folder(folder: Path, ends: list[int], library: Any) -> Tokenizer | None:
    """The tokenizer of a folder; None if it has none. ends: ids that end a text. library: transformers, for older files."""
    text = text_of(folder, FILE)
    if text is not None:
        return tokenizer_from_json(text, _settings({name: text_of(folder, name) for name in FILES}, ends, folder))
    if any((folder / name).is_file() for name in SLOW):
        return of_library(_loaded(library, folder, None), ends)
    scored = sorted(folder.glob(SCORED))
    return of_scores(scored[0], ends, library) if len(scored) == 1 else None


def of_scores(path: Path, ends: list[int], library: Any) -> Tokenizer:
    """The tokenizer of a file of llama2.c: the length of the longest token, then of each token its score, length and bytes."""
    try:
        data, at, tokens, scores = read_limited(path, LARGEST), 4, [], []
        while at < len(data):
            score, size = struct.unpack_from("<fi", data, at)
            tokens.append(data[at + 8 : at + 8 + size].decode("utf-8"))
            scores.append(score)
            at += 8 + size
            if size < 0 or at > len(data):
                raise ValueError("it is truncated, or no file of llama2.c")
    except (OSError, ValueError, struct.error) as error:
        raise TokenizerError(f"{path} cannot be read as a tokenizer of llama2.c: {quoted(reason(error))}") from error
    names = ["<unk>", "<s>", "</s>"]
    pieces = names + [token.replace(" ", SPACE) if not BYTE.fullmatch(token) else token for token in tokens[len(names) :]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    first = len(names) + 256
    if len(vocab) < len(pieces) or len(pieces) < first:
        raise TokenizerError(f"{path} cannot be read as a tokenizer of llama2.c: it lacks bytes, or has a token twice")
    merges = importlib.import_module(f"{library.__name__}.convert_slow_tokenizer").generate_merges(
        {piece: i for piece, i in vocab.items() if i >= first}, {piece: scores[i] for piece, i in vocab.items() if i >= first}
    )
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token=names[0], fuse_unk=True, byte_fallback=True))
    inner.normalizer = tokenizers.normalizers.Replace(" ", SPACE)
    inner.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace(SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    inner.add_special_tokens(names)
    settings = {"bos_token": names[1], "eos_token": names[2]} | ({END: ends} if ends else {})
    return tokenizer_from_json(inner.to_str(), _written(settings))


def of_gguf(path: Path, ends: list[int], library: Any, size: int) -> Tokenizer:
    """The tokenizer of a GGUF file, for a model of `size` ids. Tokens that the conversion adds to the file are left out."""
    return of_library(_loaded(library, path.parent, path.name), ends, size)


def of_library(tokenizer: Any, ends: list[int], size: int | None = None) -> Tokenizer:
    """A tokenizer of transformers as one of ours; with `size`, without added tokens of larger ids."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        raise TokenizerError(
            f"tokenizer is a {type(tokenizer).__name__}, and must be one of Siltstone, the name of its file or folder, or one of "
            "transformers that the tokenizers library runs"
        )
    named = {f"{role}_token": str(token) for role in ROLES if (token := getattr(tokenizer, f"{role}_token", None)) is not None}
    template = getattr(tokenizer, "chat_template", None)
    settings = named | ({"chat_template": template} if template else {}) | ({END: ends} if ends else {})
    text = inner.to_str()
    if size is not None:
        parsed = json.loads(text)
        parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["id"] < size]
        text = json.dumps(parsed, ensure_ascii=False)
    return tokenizer_from_json(text, _written(settings))


def given(tokenizer: Any, ends: list[int], library: Any) -> Tokenizer:
    """The tokenizer that a caller gave, in any of the forms that `from_hf` takes."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        path = Path(tokenizer)
        if path.match(SCORED):
            return of_scores(path, ends, library)
        found = of_folder(path, ends, library) if is_folder(path) else load_tokenizer(tokenizer)
        if found is None:
            raise TokenizerError(f"{tokenizer} has no tokenizer; it has neither {FILE} nor {', '.join(SLOW)}")
        return found
    return of_library(tokenizer, ends)


def _settings(files: Mapping[str, str | None], ends: list[int], folder: Path) -> str:
    """`tokenizer_config.json`, with what other files say."""
    parsed = {}
    for name in (SETTINGS, SPECIALS):
        try:
            parsed[name] = parse_object(files[name] or "{}")
        except ValueError as error:
            raise TokenizerError(f"{folder / name} is damaged: {str(error)[:200]}") from None
    found = parsed[SETTINGS]
    for key in (f"{role}_token" for role in ROLES):
        token = parsed[SPECIALS].get(key)
        if found.get(key) is None and token is not None:
            found[key] = token.get("content") if isinstance(token, dict) else token
    if files[TEMPLATE] is not None:
        found["chat_template"] = files[TEMPLATE]
    return _written(found | ({END: ends} if ends else {}))


def _written(settings: dict[str, Any]) -> str:
    """The JSON of settings, with the class that loads a run folder in transformers; "" if there are none."""
    return json.dumps(settings | {"tokenizer_class": CLASS}, indent=2, ensure_ascii=False) + "\n" if settings else ""


def _loaded(library: Any, folder: Path, gguf: str | None) -> Any:
    """The tokenizer that transformers makes of a folder's older files, or of a GGUF file."""
    more = {} if gguf is None else {"gguf_file": gguf}
    where = folder if gguf is None else folder / gguf
    with reading(library, f"transformers cannot read the tokenizer of {where}", TokenizerError):
        return library.AutoTokenizer.from_pretrained(str(folder), **LOCAL, **more)
