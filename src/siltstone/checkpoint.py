"""A trained model on the disk: a folder with `model.safetensors`, `config.json` and `tokenizer.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import LMConfig
from .errors import CheckpointError, ConfigError, InputError, TokenizerError
from .io import read_tensors, write_tensors, write_text
from .io.atomic import make_folder
from .io.tensors import tensor_bytes
from .keys import chosen
from .text import Tokenizer, tokenizer_from_json

if TYPE_CHECKING:
    from .model.lm import LM

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
VERSION = 1


def model_fingerprint(model: LM) -> str:
    """SHA-256 of the configuration, and of every weight's name, dtype, shape and bytes, in hexadecimal.

    Reads all weights once (about a second for each gigabyte); keep the result rather than ask again.
    """
    return _fingerprint(model.cfg, model.state_dict())


def _fingerprint(cfg: LMConfig, weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(_config_text(cfg).encode("utf-8"))
    for name, tensor in sorted(weights.items()):
        digest.update(f"\n{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _config_text(cfg: LMConfig) -> str:
    """A key that a later version adds leaves older fingerprints as they are."""
    return json.dumps(chosen(cfg), sort_keys=True, separators=(",", ":"))


def save(model: LM, tokenizer: Tokenizer, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Writes the model's folder, each file atomically, the weights last; returns the folder.

    dtype   the floating dtype of the weights in the file, for example `torch.bfloat16` (half the bytes);
            default: the model's own
    Raises InputError for what is no model or tokenizer, CheckpointError for a tokenizer with more ids than the model,
    StorageError where the system refuses.
    """
    check_pair(model, tokenizer)
    _check_vocabulary(model.cfg, tokenizer, "the tokenizer")
    folder = make_folder(folder)
    weights = {name: x.to(dtype) if dtype and x.is_floating_point() else x for name, x in model.state_dict().items()}
    write_text(folder / TOKENIZER, tokenizer.to_json())
    write_text(folder / CONFIG, json.dumps(model.cfg.to_dict(), indent=1) + "\n")
    about = {"format": "pt", "siltstone": str(VERSION), "sha256": _fingerprint(model.cfg, weights)}
    write_tensors(folder / WEIGHTS, weights, about)
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple[LM, Tokenizer]:
    """The model (in evaluation mode) and the tokenizer of a folder that `save` or `siltstone train` wrote.

    device, dtype   where the weights go and what they are converted to
    Raises CheckpointError when a file is missing, truncated or altered, or when weights, configuration and tokenizer
    do not fit together, or a weight is not finite. The random generators are left as they were.
    """
    from .model.lm import LM

    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the folder that `siltstone train --out` wrote, or demo")
    missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {' and '.join(missing)}: it is not (yet) a trained model's folder; "
            "give the folder that `siltstone train --out` wrote, or demo"
        )
    cfg = _read_config(folder / CONFIG)
    tokenizer = _read_tokenizer(folder / TOKENIZER)
    _check_vocabulary(cfg, tokenizer, str(folder / TOKENIZER))
    weights = _read_weights(folder / WEIGHTS, cfg)
    with torch.random.fork_rng(devices=[]):
        model = LM(cfg)
    _check_shapes(model.state_dict(), weights, folder / WEIGHTS)
    model.load_state_dict(weights)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def _read_config(path: Path) -> LMConfig:
    try:
        return LMConfig.from_dict(json.loads(path.read_text("utf-8")))
    except ConfigError as error:
        raise CheckpointError(f"{path} describes no model that this version knows: {error}") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return tokenizer_from_json(path.read_text("utf-8"))
    except (TokenizerError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _read_weights(path: Path, cfg: LMConfig) -> dict[str, Tensor]:
    try:
        weights, about = read_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the weights cannot be read: {error}") from error
    if about.get("siltstone", "").isdecimal() and int(about["siltstone"]) > VERSION:
        raise CheckpointError(
            f"{path} was written by a newer Siltstone (format {about['siltstone']}, here {VERSION}); update Siltstone"
        )
    broken = [name for name, x in weights.items() if x.is_floating_point() and not torch.isfinite(x).all()]
    if broken:
        raise CheckpointError(f"{path} has weights that are NaN or infinite: {_some(broken)}; take an earlier checkpoint")
    if "sha256" in about and about["sha256"] != _fingerprint(cfg, weights):
        raise CheckpointError(f"{path} or config.json beside it was altered after it was written: the fingerprint differs")
    return weights


def _check_shapes(wanted: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    lacking, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if lacking or extra:
        parts = [f"lacks {_some(lacking)}" if lacking else "", f"has the unknown {_some(extra)}" if extra else ""]
        raise CheckpointError(f"{path} does not fit config.json: it {' and '.join(filter(None, parts))}")
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"{path} does not fit config.json: {name} is {list(found[name].shape)}, "
                f"and the configuration asks for {list(tensor.shape)}"
            )


def check_pair(model: object, tokenizer: object) -> None:
    """InputError unless they are a model and a tokenizer."""
    for name, given, ok, makers in (
        ("model", model, isinstance(getattr(model, "cfg", None), LMConfig), "st.LM(cfg)"),
        ("tokenizer", tokenizer, isinstance(tokenizer, Tokenizer), "st.ByteTokenizer(), st.train_bpe(paths, vocab_size)"),
    ):
        if not ok:
            raise InputError(f"{name} is a {type(given).__name__}; give a {name} such as {makers} or st.load(folder) makes")


def _check_vocabulary(cfg: LMConfig, tokenizer: Tokenizer, name: str) -> None:
    if tokenizer.vocab_size > cfg.vocab_size:
        raise CheckpointError(
            f"{name} has {tokenizer.vocab_size} ids, more than the model's vocab_size={cfg.vocab_size}; "
            "use the model's own tokenizer"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
