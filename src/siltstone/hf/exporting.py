"""A plain decoder of ours is written as a folder of transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..io import atomic_file, claim, write_tensors
from ..io.folder import make_folder, remove_file
from ..io.parse import parse_object
from ..io.regular import given_path
from ..models import checkpoint
from ..text import ByteTokenizer, Tokenizer
from ..text.library import quoted
from ..text.settings import END, ROLES
from . import source, tokens
from .configs import from_keys
from .importing import RECORD, VERSION
from .weights import EMBED, HEAD, parted

FILES = (source.CONFIG, source.GENERATION, *tokens.FILES)  # that are kept from a pretrained model
DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def export(run: str | Path, folder: str | Path, overwrite: bool = False) -> Path:
    """Writes the decoder in a run folder as a folder of transformers, and returns its path.

    overwrite   replace a model that is in `folder`, with its tokenizer. Its configuration is removed first and written last: a
                folder that has one is complete

    A decoder that `import_run` read from safetensors files is written back bit for bit, in its stored dtypes, with its own
    configuration, if its keys were not changed; one from a GGUF file as its dequantised weights. Raises UnsupportedModel for a
    model with parts that transformers' decoders lack, CheckpointError for a run folder that cannot be used, StorageError, and
    InUse if another process writes to `folder`.
    """
    run, folder = given_path(run, "folder"), given_path(folder, "folder")
    if os.path.realpath(run) == os.path.realpath(folder):
        raise CheckpointError(f"{folder} is the run itself, which the export would replace; choose another folder")
    cfg, tokenizer, weights = checkpoint.read(run)
    config, record = from_keys(cfg), _record(run)
    files, dtypes = record.get("files", {}), record.get("tensors", {})
    theirs = parted(cfg, weights)
    if cfg.tie and HEAD in dtypes:
        theirs[HEAD] = theirs[EMBED]
    if dtypes.keys() == theirs.keys():
        theirs = {name: theirs[name].to(DTYPES[dtype]) for name, dtype in dtypes.items()}
        checkpoint.check_finite(theirs, f"{run} in the dtypes of the imported model", "its weights have grown beyond their range")
    if record.get("keys") != cfg.fingerprint:  # a model of Siltstone's own, or one whose keys were changed
        kept = {name: text for name, text in files.items() if name != source.CONFIG}
        config |= _ids(tokenizer, theirs) | _trained(run, files)
        files = kept | {source.CONFIG: json.dumps(config, indent=2) + "\n"}
    files = _tokenizer(tokenizer) | files
    last = files.pop(source.CONFIG)
    with claim(make_folder(folder)):
        if (folder / source.CONFIG).exists():
            if not overwrite:
                raise CheckpointError(f"{folder} has a model already; choose another folder, or give overwrite to replace it")
            for name in (source.CONFIG, source.INDEX, tokens.FILE, *FILES):  # also those that the new model does not have
                remove_file(folder / name)
        write_tensors(folder / source.WEIGHTS, theirs, {"format": "pt"})
        for name, text in (files | {source.CONFIG: last}).items():  # a folder without config.json is no model
            with atomic_file(folder / name) as file:
                file.write(text.encode("utf-8"))
    return folder


def _record(run: Path) -> dict[str, Any]:
    """What `import_run` recorded: its `keys`, `files` and `tensors`; {} for a model that it did not write."""
    data = checkpoint.read_beside(run, RECORD)
    try:
        record = parse_object(data or b"{}")
        if record and record["version"] != VERSION:
            raise ValueError(f"it has version {record['version']!r:.20}, and this Siltstone reads {VERSION}")
        if record and not ({*record["tensors"].values()} <= DTYPES.keys() and source.CONFIG in record["files"]):
            raise ValueError("its dtypes or its files are not those of a decoder")
        for name, text in record.get("files", {}).items():
            if name not in FILES or not isinstance(text, str):
                raise ValueError(f"{quoted(name, 60)} is no text file of a pretrained model")
            text.encode("utf-8")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{run / RECORD} cannot be used: {str(error)[:200]}; import the model again") from None
    return record


def _trained(run: Path, files: dict[str, str]) -> dict[str, Any]:
    """The context that a pretrained decoder says it was trained for; {} for a model of Siltstone's own."""
    if source.CONFIG not in files:
        return {}
    try:
        config = parse_object(files[source.CONFIG])
    except ValueError as error:
        raise CheckpointError(f"{run / RECORD} cannot be used: its {source.CONFIG} {error}; import the model again") from None
    return {key: config[key] for key in ("max_position_embeddings",) if key in config}


def _ids(tokenizer: Tokenizer, theirs: dict[str, Tensor]) -> dict[str, Any]:
    """The ids of special tokens, and the dtype of most weights."""
    found = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ROLES}
    if ends := getattr(tokenizer, "end_ids", ()):
        found["eos_token_id"] = list(dict.fromkeys(x for x in (tokenizer.eos_id, *ends) if x is not None))
    return found | {"dtype": str(theirs[EMBED].dtype).removeprefix("torch.")}


def _tokenizer(tokenizer: Tokenizer) -> dict[str, str]:
    """The files of a tokenizer; none for bytes, which transformers has no file for."""
    if isinstance(tokenizer, ByteTokenizer):
        return {}
    settings = json.loads(getattr(tokenizer, "settings_json", str)() or "{}")
    settings.pop(END, None)
    if settings.get("tokenizer_class", tokens.CLASS) == tokens.CLASS:
        settings["tokenizer_class"] = tokens.PLAIN
    return {tokens.FILE: tokenizer.to_json(), tokens.SETTINGS: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}
