"""A plain decoder of ours is written as a folder of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..io import atomic_file, write_tensors
from ..io.folder import make_folder, remove_file
from ..io.parse import parse_object
from ..io.regular import given_path
from ..models import checkpoint
from ..text import ByteTokenizer, Tokenizer
from ..text.settings import END, ROLES
from . import source, tokens
from .configs import from_keys
from .importing import RECORD, VERSION
from .weights import EMBED, HEAD, parted

DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def export(run: str | Path, folder: str | Path, overwrite: bool = False) -> Path:
    """Writes the decoder in a run folder as a folder of transformers, and returns its path.

    overwrite   replace a model that is in `folder`. Its configuration is removed first and written last: a folder that has one is
                complete

    A decoder that `import_run` read from safetensors files is written back bit for bit, in its stored dtypes, with its own
    configuration, if its keys were not changed; one from a GGUF file as its dequantised weights. Raises UnsupportedModel for a
    model with parts that transformers' decoders lack, CheckpointError for a run folder that cannot be used, StorageError.
    """
    run = given_path(run, "folder")
    cfg, tokenizer, weights = checkpoint.read(run)
    config, record = from_keys(cfg), _record(run)
    files, dtypes = record.get("files", {}), record.get("tensors", {})
    theirs = parted(cfg, weights)
    if cfg.tie and HEAD in dtypes:
        theirs[HEAD] = theirs[EMBED]
    if dtypes.keys() == theirs.keys():
        theirs = {name: theirs[name].to(DTYPES[dtype]) for name, dtype in dtypes.items()}
    if record.get("keys") != cfg.fingerprint:  # a model of Siltstone's own, or one whose keys were changed
        kept = {name: text for name, text in files.items() if name in tokens.FILES}
        files = kept | {source.CONFIG: json.dumps(config | _ids(tokenizer, theirs), indent=2) + "\n"}
    folder = make_folder(folder)
    if (folder / source.CONFIG).exists():
        if not overwrite:
            raise CheckpointError(f"{folder} has a model already; choose another folder, or give overwrite to replace it")
        remove_file(folder / source.CONFIG)
    write_tensors(folder / source.WEIGHTS, theirs, {"format": "pt"})
    for name, text in (_tokenizer(tokenizer) | files).items():  # config.json last: a folder without it is no model
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
        if record and not ({*record["tensors"].values()} <= DTYPES.keys() and isinstance(record["files"][source.CONFIG], str)):
            raise ValueError("its dtypes or its files are not those of a decoder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{run / RECORD} cannot be used: {str(error)[:200]}; import the model again") from None
    return record


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
