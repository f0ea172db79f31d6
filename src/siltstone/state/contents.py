"""Pages found by what they hold: BLAKE2b of their bytes, and the span of tokens that they cover."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from torch import Tensor

from ..io.tensors import tensor_bytes

Key = tuple[bytes, int, int]


def content_hash(page: tuple[Tensor, ...]) -> bytes:
    """32 bytes of dtypes, shapes and elements."""
    found = blake2b(digest_size=32)
    for x in page:
        found.update(f"{x.dtype} {tuple(x.shape)} ".encode())
        found.update(tensor_bytes(x))
    return found.digest()


class Contents:
    """Which page has which content. The pool calls it under its lock."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}
        self._pages: dict[Key, int] = {}

    def page(self, name: bytes, span: np.ndarray) -> int:
        """The page with this content and span [2]; -1: none."""
        return self._pages.get((name, *span.tolist()), -1)

    def put(self, page: int, name: bytes, span: np.ndarray) -> None:
        """The page now has this content and span."""
        key = (name, *span.tolist())
        self._keys[page], self._pages[key] = key, page

    def moved(self, source: int, target: int) -> None:
        """`target` is a copy of `source`, and is found in its place."""
        if (key := self._keys.get(source)) is not None:
            self._keys[target], self._pages[key] = key, target

    def forget(self, page: int) -> None:
        """The page's content is about to change."""
        key = self._keys.pop(page, None)
        if key is not None and self._pages.get(key) == page:
            del self._pages[key]
