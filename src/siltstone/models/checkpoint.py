"""A trained model on disk: a folder with `model.safetensors`, `config.json` and `tokenizer.json`; some have further files.

The file of the weights is the manifest of all: it has the hashes of the others and is replaced last. A save that is
interrupted therefore leaves the old model or the new one, never a mixture. The file has a checksum of all its bytes, and the
fingerprints of the model, without (`sha256`) and with its tokenizer (`fingerprint`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config.model import LMConfig
from ..errors import CheckpointError, ConfigError, FormatWarning, InputError, TokenizerError
from ..io import SEAL, write_sealed
from ..io.folder import make_folder
from ..io.parse import parse_object
from ..io.regular import errors_of, given_path, is_folder, reason
from ..io.sets import read_member, write_set
from ..io.tensor_file import DTYPES, HEADER, TensorFile, open_tensors
from ..text import Tokenizer, tokenizer_from_json
from .config_file import config_text, keys_of
from .fingerprint import Seen, check_pair, fingerprint_of, weights_of, with_tokenizer

if TYPE_CHECKING:
    from .lm import LM

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
SETTINGS = "tokenizer_config.json"  # only of tokenizers that have settings
VERSION = 1


def model_fingerprint(model: LM) -> str:
    """SHA-256 of the configuration, and of every weight's name, dtype, shape and bytes, in hexadecimal.

    Reads all weights (about half a second for each gigabyte).
    """
    return Seen(model).fingerprint


def save(
    model: LM,
    tokenizer: Tokenizer,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> Path:
    """Writes the model's folder and returns its path. An older model there is replaced as a whole or not at all.

    model   may be the result of `torch.compile`; for parametrised weights, the computed values are written
    dtype   the floating dtype of the weights in the file, for example `torch.bfloat16` (half the bytes);
            default: the model's own
    beside  further files that belong to the model, by name (at most 64 MiB each); `read_beside` reads them
    Before anything is written, all checks of `load` are made. Raises InputError if an argument is not a model, a tokenizer or a
    floating dtype, CheckpointError for a model that could not be loaded again (weights that are not finite, modules that the
    configuration does not have, a tokenizer with more ids than the model), StorageError if writing fails.
    """
    model = check_pair(model, tokenizer)
    if not isinstance(model.cfg, LMConfig):
        raise InputError(f"model is a {type(model).__name__}, and a folder holds an st.LM; save its state_dict instead")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype.itemsize > 1):
        raise InputError(f"dtype={dtype} is not a dtype for weights; give one such as torch.bfloat16, or leave it out")
    cfg = model.cfg
    check_vocabulary(cfg, tokenizer, "the tokenizer")
    config = config_text(cfg, tokenizer)
    weights = weights_of(model)
    _check_shapes(cfg, weights, "the model", "its configuration (merge adapters, and remove wrappers, before saving)")
    if odd := [name for name, x in weights.items() if x.dtype not in DTYPES.values()]:
        raise CheckpointError(f"the model has weights in a dtype that files do not support: {some(odd)}; convert them first")
    check_finite(weights, "the model")
    if dtype is not None:
        weights = {name: x.detach().to(dtype) if x.is_floating_point() else x for name, x in weights.items()}
        check_finite(weights, f"the model in {dtype}", "save it in a dtype with a larger range")
    text = tokenizer.to_json()
    if _config(config, "the model's configuration") != cfg:
        raise CheckpointError("the model's configuration changes when it is written as JSON; give values that JSON has")
    settings = getattr(tokenizer, "settings_json", str)()
    if _tokenizer(text, "the tokenizer", settings).fingerprint != tokenizer.fingerprint:
        raise CheckpointError("the tokenizer differs from what its to_json() describes, so that it could not be loaded again")
    folder = make_folder(folder)
    fingerprint = fingerprint_of(cfg, weights)
    about = {"format": "pt", "siltstone": str(VERSION), "sha256": fingerprint}
    about["fingerprint"] = with_tokenizer(fingerprint, tokenizer)

    def manifest(hashes: dict[str, str]) -> None:
        write_sealed(folder / WEIGHTS, weights, about | {"files": json.dumps(hashes, sort_keys=True)})

    files = {TOKENIZER: text, CONFIG: config} | ({SETTINGS: settings} if settings else {})
    write_set(folder, {name: content.encode("utf-8") for name, content in files.items()} | dict(beside or {}), manifest)
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> tuple[LM, Tokenizer]:
    """The model (in evaluation mode) and the tokenizer of a folder that `save` or `siltstone train` wrote.

    device, dtype   the device and dtype of the loaded weights
    Raises CheckpointError if a file is missing, truncated or altered, if weights, configuration and tokenizer do not fit
    together, or if a weight is not finite; files are checked before the model is built. Warns with FormatWarning for a folder of
    an early version. The state of the random generators does not change.
    """
    cfg, tokenizer, weights = read(folder)
    model = build(cfg)
    model.load_state_dict(weights)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def read(folder: str | Path) -> tuple[LMConfig, Tokenizer, dict[str, Tensor]]:
    """Configuration, tokenizer and weights of a folder, in their stored dtypes. Checks, errors and warnings as in `load`."""
    folder = given_path(folder, "folder")
    if not is_folder(folder):
        raise CheckpointError(f"{folder} is not a folder; give the folder that `siltstone train --out` wrote, or demo")
    missing = [name for name in (CONFIG, TOKENIZER, WEIGHTS) if not _present(folder, name)]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {' and '.join(missing)}: it is not (yet) the folder of a trained model; "
            "give the folder that `siltstone train --out` wrote, or demo"
        )
    with opened(folder / WEIGHTS) as file:
        return _read(folder, file)


@contextmanager
def opened(path: Path, most: int = HEADER) -> Iterator[TensorFile]:
    """A file of weights with a header of at most `most` bytes; every error of reading it is a CheckpointError."""
    unread = f"the weights cannot be read: {path}"
    with errors_of(lambda why: CheckpointError(f"{unread}: {why}"), lambda why: CheckpointError(f"{unread} {why}")):
        with open_tensors(path, SEAL, most) as file:
            yield file


def read_beside(folder: Path, name: str) -> bytes | None:
    """A file that `save` wrote beside the model; None if there is none. Raises CheckpointError if it was altered."""
    with opened(folder / WEIGHTS) as file:
        hashes = _hashes(file.metadata, folder / WEIGHTS)
    if name not in hashes:
        return None
    data, fits = _member(folder, name, hashes)
    if not fits:
        raise CheckpointError(f"{folder / name} was altered after it was written, or belongs to another {WEIGHTS}")
    return data


def build(cfg: LMConfig) -> LM:
    """A model of a configuration; the state of the random generators does not change."""
    from .lm import LM

    with torch.random.fork_rng(devices=[]):
        return LM(cfg)


def _read(folder: Path, file: TensorFile) -> tuple[LMConfig, Tokenizer, dict[str, Tensor]]:
    """Configuration, tokenizer and weights, all of the same save."""
    path, about = folder / WEIGHTS, file.metadata
    if "files" in about and not file.sealed:
        raise CheckpointError(f"{path} was altered: it has no checksum")
    hashes = _hashes(about, path)
    config, config_fits = _member(folder, CONFIG, hashes)
    cfg = _config(config, str(folder / CONFIG))
    text, text_fits = _member(folder, TOKENIZER, hashes)
    foreign = not hashes and _present(folder, SETTINGS)  # transformers wrote the folder
    settings, settings_fit = _member(folder, SETTINGS, hashes) if SETTINGS in hashes or foreign else (b"", True)
    tokenizer = _tokenizer(text, str(folder / TOKENIZER), settings)
    check_vocabulary(cfg, tokenizer, str(folder / TOKENIZER))
    if about.get("siltstone", "").isdecimal() and int(about["siltstone"][:9]) > VERSION:
        newer = about["siltstone"][:9]
        raise CheckpointError(f"{path} was written by a newer Siltstone (format {newer}, here {VERSION}); update Siltstone")
    _check_shapes(cfg, file.meta(), str(path))
    weights = file.read()
    check_finite(weights, str(path))
    for name, fits in ((CONFIG, config_fits), (TOKENIZER, text_fits), (SETTINGS, settings_fit)):
        if not fits:
            raise CheckpointError(f"{folder / name} was altered after it was written, or belongs to another {WEIGHTS}")
    fingerprint = fingerprint_of(cfg, weights) if "sha256" in about else ""
    if about.get("sha256", "") != fingerprint:
        raise CheckpointError(f"{path} or config.json beside it was altered after it was written: the fingerprint differs")
    if about.get("fingerprint", "") not in ("", with_tokenizer(fingerprint, tokenizer)):
        raise CheckpointError(f"{path} or a file beside it was altered after it was written: the fingerprint differs")
    if "siltstone" in about and not hashes:
        warnings.warn(
            f"{folder} was written by an early version, without a joint fingerprint of weights and tokenizer; st.save adds it",
            FormatWarning,
            stacklevel=5,
        )
    return cfg, tokenizer, weights


def _present(folder: Path, name: str) -> bool:
    try:
        return (folder / name).exists() or any(folder.glob(f".{name}.*.new"))
    except OSError:
        return False


def _hashes(about: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        return parse_object(about.get("files", "{}"))
    except ValueError:
        raise CheckpointError(f"{path} was altered: it does not say which files belong to it") from None


def _member(folder: Path, name: str, hashes: dict[str, Any]) -> tuple[bytes, bool]:
    try:
        return read_member(folder, name, str(hashes[name]) if name in hashes else None)
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {reason(error)}") from error


def _config(text: str | bytes, name: str) -> LMConfig:
    try:
        return LMConfig.from_dict(keys_of(parse_object(text)), stored=True)
    except ConfigError as error:
        raise CheckpointError(f"{name} does not describe a model of this version: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {str(error)[:300]}") from error


def _tokenizer(text: str | bytes, name: str, settings: str | bytes = "") -> Tokenizer:
    try:
        return tokenizer_from_json(*(x.decode("utf-8") if isinstance(x, bytes) else x for x in (text, settings)))
    except (TokenizerError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be used: {error}") from error


def check_finite(weights: dict[str, Tensor], name: str, mend: str = "take an earlier checkpoint") -> None:
    """CheckpointError if a weight is NaN or infinite. name: of the model, for the message."""
    if broken := [key for key, x in weights.items() if x.is_floating_point() and not torch.isfinite(x).all()]:
        raise CheckpointError(f"{name} has weights that are NaN or infinite: {some(broken)}; {mend}")


def _check_shapes(cfg: LMConfig, found: dict[str, Tensor], name: str, wanted_by: str = "config.json") -> None:
    """CheckpointError unless names, shapes and kinds of dtype are those of the weights of a model of this configuration."""
    if len(found) < cfg.depth:  # checked first: to build a model of many blocks takes much memory
        raise CheckpointError(f"{name} does not fit {wanted_by}: depth={cfg.depth} blocks have more than {len(found)} weights")
    with torch.device("meta"):
        wanted = build(cfg).state_dict()
    lacking, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if lacking or extra:
        parts = [f"lacks {some(lacking)}" if lacking else "", f"has the unknown {some(extra)}" if extra else ""]
        raise CheckpointError(f"{name} does not fit {wanted_by}: it {' and '.join(filter(None, parts))}")
    for key, tensor in wanted.items():
        if tensor.shape != found[key].shape:
            raise CheckpointError(
                f"{name} does not fit {wanted_by}: {key} has shape {list(found[key].shape)}, "
                f"and the configuration requires {list(tensor.shape)}"
            )
        if tensor.is_floating_point() != found[key].is_floating_point():
            raise CheckpointError(f"{name} does not fit {wanted_by}: {key} is {found[key].dtype}, and {tensor.dtype} is needed")


def check_vocabulary(cfg: LMConfig, tokenizer: Tokenizer, name: str) -> None:
    """CheckpointError if the tokenizer has more ids than the model. name: of the tokenizer, for the message."""
    if tokenizer.vocab_size > cfg.vocab_size:
        raise CheckpointError(
            f"{name} has {tokenizer.vocab_size} ids, more than the model's vocab_size={cfg.vocab_size}; "
            "use the model's own tokenizer"
        )


def some(names: list[str]) -> str:
    """The first names of a list for a message, each cut and with control characters escaped."""
    return ", ".join(ascii(name[:80])[1:-1] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
