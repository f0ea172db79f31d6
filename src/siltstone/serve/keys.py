"""Bearer keys, of which only the SHA-256 is kept.

A file of keys has one line a key: `NAME sha256:DIGEST`; empty lines and those that begin with # are skipped. A key should be
random, of 128 bits or more (`openssl rand -hex 24`); `printf %s KEY | sha256sum` prints its digest.
"""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError

_LINE = re.compile(r"(\S{1,64})\s+sha256:([0-9a-f]{64})")
NOBODY = "local"  # the owner of everything on a server without keys


class Keys:
    """The keys that a server accepts; without any, everybody is one owner."""

    def __init__(self, owners: dict[str, str] | None = None) -> None:
        self._owners = owners or {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys of a file. Raises ConfigError; its message has no part of a key."""
        owners: dict[str, str] = {}
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the file of keys {path} cannot be read: {getattr(error, 'strerror', None) or 'no text'}"
            ) from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            met = _LINE.fullmatch(line.strip())
            if met is None:
                raise ConfigError(
                    f"line {number} of {path} is not 'NAME sha256:DIGEST'; keys are stored as digests: printf %s KEY | sha256sum"
                )
            if met[2] in owners or met[1] in owners.values() or met[1] == NOBODY:
                raise ConfigError(f"line {number} of {path} repeats a name or a key, or has the name {NOBODY!r}; give another")
            owners[met[2]] = met[1]
        if not owners:
            raise ConfigError(f"{path} has no keys; add lines 'NAME sha256:DIGEST'")
        return cls(owners)

    def owner(self, authorization: str | None) -> str | None:
        """The name of the key in a header; None if it is not known."""
        if not self._owners:
            return NOBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() == "basic":  # a browser that shows the page: the key is the password
            with suppress(ValueError):
                key = base64.b64decode(key, validate=True).decode("utf-8").partition(":")[2]
        elif scheme.lower() != "bearer":
            return None
        return self._owners.get(hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).hexdigest())
