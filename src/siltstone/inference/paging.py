"""Sessions in pieces: a head, and pages of what only grows. A page never changes, so that it is written once.

What grows (`state.entries`: sealed states, keys and values of full attention) is cut along its axis after every so many entries,
in all layers at the same places. Whole pieces are pages, named by the SHA-256 of their bytes; the rest stays in the head, which
is a session file whose header names the pages. A session that has read more has the pages of before, and perhaps more. What has
few places, as logarithmic banks and budgets, stays in the head.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SessionCorrupt
from ..io.tensors import dump_tensors, read_tensors
from ..models.stream_state import LMState
from ..state.entries import Entries
from . import silt, store
from .session import Session

PAGE = 1 << 18  # bytes of a page, at least


@dataclass(frozen=True)
class Page:
    """One page. make: its bytes, which are not held."""

    digest: str
    make: Callable[[], bytes]


def dump(session: Session) -> tuple[bytes, list[Page]]:
    """The head of a session, and its pages. Raises as `Session.save`."""
    with session._alone():
        session._whole()
        header, tensors = store.packed(session)
        groups, pages = [], []
        for axes, size in _groups(session._state, tensors):
            count = _width(tensors, axes) // size
            found = [_page(tensors, axes, i * size, size) for i in range(count)]
            pages += found
            groups.append({"axes": axes, "pages": [page.digest for page in found]})
            for name, axis in axes.items():
                rest = tensors[name].shape[axis] - count * size
                tensors[name] = tensors[name].narrow(axis, count * size, rest)
    file = io.BytesIO()
    silt.dump(file, header | {"pages": groups}, tensors)
    return file.getvalue(), pages


def load(path: Path, page: Callable[[str], Path], model: Any, tokenizer: Any, runtime: str) -> Session:
    """The session of a head. page: the file of a page.

    Raises as `Session.load`; SessionCorrupt for a page that is missing or damaged.
    """

    def whole(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for group in header.get("pages", ()):
            parts = [_read(page(digest), digest) for digest in group["pages"]]
            for name, axis in group["axes"].items():
                tensors[name] = torch.cat([*(part[name] for part in parts), tensors[name]], axis)
        return tensors

    return store.load(path, model, tokenizer, runtime, whole)


def _groups(state: Any, tensors: dict[str, Tensor]) -> list[tuple[dict[str, int], int]]:
    """The tensors that grow together: the axis of each, and the number of entries of a page."""
    found: dict[int, dict[str, int]] = {}
    for i, layer in enumerate(state.layers if isinstance(state, LMState) else ()):
        for name, leaf in layer.leaves(f"{store.PREFIX}layers.{i}."):
            if isinstance(leaf, Entries):
                own = {f"{name}.{j}": axis for j, axis in enumerate(leaf.axes)}
                found.setdefault(_width(tensors, own), {}).update(own)
    sizes = {width: max(1, sum(tensors[name].nbytes for name in axes) // width) for width, axes in found.items() if width}
    return [(found[width], -(-PAGE // size)) for width, size in sizes.items()]  # size: bytes of an entry


def _width(tensors: dict[str, Tensor], axes: dict[str, int]) -> int:
    return next(tensors[name].shape[axis] for name, axis in axes.items())


def _page(tensors: dict[str, Tensor], axes: dict[str, int], first: int, size: int) -> Page:
    parts = {name: tensors[name].narrow(axis, first, size) for name, axis in axes.items()}

    def make() -> bytes:
        file: Any = io.BytesIO()
        dump_tensors(file, parts)
        return file.getvalue()

    return Page(hashlib.sha256(make()).hexdigest(), make)


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError("its bytes have changed")
        return read_tensors(path)[0]
    except (OSError, ValueError) as error:
        name = os.path.basename(path)
        raise SessionCorrupt(f"the page {name} of a session cannot be read: {error}"[:300]) from None
