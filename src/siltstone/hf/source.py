"""A pretrained model as it is found: a folder with safetensors files, a GGUF file, or a model of transformers in memory."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, InputError
from ..io.parse import parse_object
from ..io.regular import is_folder, read_limited, reason
from ..models.checkpoint import opened, some
from ..text import Tokenizer
from ..text.library import quoted
from . import tokens
from .families import check_family
from .library import LOCAL, reading
from .weights import EMBED, HEAD

CONFIG, GENERATION, WEIGHTS, INDEX = "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"
MOST = 64 << 20  # maximum bytes of a JSON file
LARGE = 64 << 20  # maximum bytes of a header
SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")
OTHER = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")  # weights that are not read


@dataclass
class Source:
    """name: for messages; config: an object of transformers; files: name -> text, kept for the way back.

    tensors     reads all weights, by the names of transformers
    tokenizer   makes the model's own tokenizer from the ids that end a text; None if it has none
    """

    name: str
    config: Any
    files: dict[str, str]
    tensors: Callable[[], dict[str, Tensor]]
    tokenizer: Callable[[list[int]], Tokenizer | None]

    @property
    def ends(self) -> list[int]:
        """The ids that end a text: of the generation configuration, or else of the configuration."""
        generation = json.loads(self.files.get(GENERATION, "{}"))
        for given in (generation.get("eos_token_id"), getattr(self.config, "eos_token_id", None)):
            found = [i for i in (given if isinstance(given, list) else [given]) if isinstance(i, int)]
            if found:
                return found
        return []


def find(source: Any, library: Any) -> Source:
    """The source that a caller named. Raises CheckpointError, UnsupportedModel or InputError."""
    if isinstance(source, library.PreTrainedModel):
        return _of_model(source, library)
    if not isinstance(source, str | Path):
        raise InputError(f"source is a {type(source).__name__}, and must be a folder, a GGUF file or a model of transformers")
    path = Path(source)
    if path.suffix.lower() == ".gguf" and not is_folder(path):
        return _of_gguf(path, library)
    if not is_folder(path):
        raise CheckpointError(
            f"{path} is neither a folder nor a GGUF file; give the folder of a downloaded model with {CONFIG} and {WEIGHTS}"
        )
    ggufs = sorted(x for x in path.iterdir() if x.suffix.lower() == ".gguf")
    if not (path / CONFIG).is_file() and len(ggufs) == 1:
        return _of_gguf(ggufs[0], library)
    if not (path / CONFIG).is_file():
        several = f"; it has {len(ggufs)} GGUF files: name one of them" if ggufs else ""
        raise CheckpointError(f"{path} has no {CONFIG}, so that it is not the folder of a pretrained model{several}")
    return _of_folder(path, library)


def _of_folder(folder: Path, library: Any) -> Source:
    texts = {name: text for name in (CONFIG, GENERATION, *tokens.FILES) if (text := _text(folder / name)) is not None}
    try:
        raw = parse_object(texts[CONFIG])
        parse_object(texts.get(GENERATION, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} or {GENERATION} beside it is damaged: {str(error)[:200]}") from None
    if "siltstone" in raw or ("d_model" in raw and "model_type" not in raw):
        raise CheckpointError(f"{folder} is a run folder of Siltstone already; load it with st.load")
    check_family(raw, str(folder))
    config = _config(library, folder)
    return Source(str(folder), config, texts, lambda: _read(folder), lambda ends: tokens.of_folder(folder, ends, library))


def _of_gguf(path: Path, library: Any) -> Source:
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; give a GGUF file, or a folder with one")
    config = _config(library, path.parent, path.name)
    check_family(config.to_dict(), str(path))

    files = {CONFIG: config.to_json_string(use_diff=False)}
    return Source(
        str(path),
        config,
        files,
        lambda: _read_gguf(path, config, library),
        lambda ends: tokens.of_gguf(path, ends, library, config.vocab_size),
    )


def _read_gguf(path: Path, config: Any, library: Any) -> dict[str, Tensor]:
    """All tensors of a GGUF file, dequantised.

    transformers leaves out what a configuration does not have, and draws what the file does not have at random: both are errors.
    """
    import torch

    with reading(library, f"transformers cannot read the weights of {path}"):
        tensors = importlib.import_module("gguf").GGUFReader(path).tensors
        stored = sum(int(x.n_elements) for x in tensors if not x.name.startswith("rope_"))
        with torch.device("meta"):
            needed = sum(x.numel() for x in library.AutoModelForCausalLM.from_config(config).parameters())
    lacking = []
    if stored == needed:  # checked first: a model of another size may not fit the memory
        with reading(library, f"transformers cannot read the weights of {path}"):
            model, found = library.AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, output_loading_info=True, **LOCAL
            )
        lacking = sorted(found["missing_keys"])
        if not lacking:
            return _state(model)
    why = f"lacks {some(lacking)}" if lacking else f"has {stored:,} weights, and its configuration needs {needed:,}"
    raise CheckpointError(f"{path} does not fit its configuration: it {why}; take another copy")


def _of_model(model: Any, library: Any) -> Source:
    name = f"the {type(model).__name__}"
    check_family(model.config.to_dict(), name)
    files = {CONFIG: model.config.to_json_string(use_diff=False)}
    if getattr(model, "generation_config", None) is not None:
        files[GENERATION] = model.generation_config.to_json_string(use_diff=False)
    folder = Path(str(getattr(model, "name_or_path", "") or ""))

    def tokenizer(ends: list[int]) -> Tokenizer | None:
        return tokens.of_folder(folder, ends, library) if folder.name and is_folder(folder) else None

    return Source(name, model.config, files, lambda: _state(model), tokenizer)


def _state(model: Any) -> dict[str, Tensor]:
    """The weights of a model in memory; an output layer that is the embedding itself is left out, as in files."""
    found = {name: x.detach() for name, x in model.state_dict().items()}
    if HEAD in found and EMBED in found and found[HEAD].data_ptr() == found[EMBED].data_ptr():
        del found[HEAD]
    return found


def _config(library: Any, folder: Path, gguf: str | None = None) -> Any:
    more = {} if gguf is None else {"gguf_file": gguf}
    where = folder / (gguf or CONFIG)
    with reading(library, f"transformers cannot read {where}"):
        return library.AutoConfig.from_pretrained(str(folder), **LOCAL, **more)


def _text(path: Path) -> str | None:
    try:
        return read_limited(path, MOST).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {quoted(reason(error))}") from error


def _read(folder: Path) -> dict[str, Tensor]:
    """All tensors of the safetensors files of a folder."""
    index = _text(folder / INDEX)
    if index is None and not (folder / WEIGHTS).is_file():
        other = sorted(x.name for x in folder.iterdir() if x.suffix in OTHER or x.suffix == ".gguf")
        unusable = f" ({', '.join(other[:3])} cannot be used: save it as safetensors)" if other else ""
        raise CheckpointError(f"{folder} has no weights: neither {WEIGHTS} nor {INDEX}{unusable}")
    if index is None:
        return _tensors(folder / WEIGHTS)
    try:
        places = parse_object(index)["weight_map"]
        if not isinstance(places, dict) or not all(isinstance(x, str) and _own(x) for x in places.values()):
            raise ValueError("its weight_map must map names to files of the same folder, *.safetensors")
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / INDEX} is damaged: {str(error)[:200]}") from None
    missing = [name for name in sorted(set(places.values())) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {some(missing)}, which {INDEX} names; download the model again")
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        found |= {key: x for key, x in _tensors(folder / shard).items() if places.get(key) == shard}
    if lacking := sorted(places.keys() - found.keys()):
        raise CheckpointError(f"the files of {folder} lack {some(lacking)}, which {INDEX} names; download it again")
    return found


def _own(name: str) -> bool:
    """Whether this may be the name of a file of weights in the same folder."""
    return SHARD.fullmatch(name) is not None and len(name) < 256


def _tensors(path: Path) -> dict[str, Tensor]:
    with opened(path, LARGE) as file:
        return file.read()
