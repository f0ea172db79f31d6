"""Who may read a file: what a new file takes over from the one whose place it takes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from . import system

_ACL = "system.posix_acl_access"
_NOT_ALLOWED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL)


def keep_access(handle: int, path: Path, found: os.stat_result) -> None:
    """Gives an open new file what `path` has: permissions, owner and group, access list, attributes of the user.

    found   the stat result of `path`
    Where the system does not allow the owner, the writer is the owner; without the group or the access list, the group may
    do no more than everyone may. On filesystems without permissions nothing happens. Raises OSError for a failing disk.
    """
    mode, made = found.st_mode & 0o777, os.fstat(handle)
    if found.st_uid != made.st_uid:
        _allowed(system.chown, handle, found.st_uid, -1)
    kept = found.st_gid == made.st_gid or _allowed(system.chown, handle, -1, found.st_gid)
    names = _attributes(path)
    if _ACL in _attributes(handle) and _ACL not in names:  # which the folder gives to its new files
        kept &= _allowed(system.remove_attribute, handle, _ACL)
    for name in names:
        kept &= _allowed(_copy, path, handle, name) or name != _ACL
    if not kept:
        mode &= ~0o070 | (mode & 0o007) << 3
    _allowed(system.chmod, handle, mode)


def _attributes(file: Path | int) -> list[str]:
    """The names of the access list and of the user's attributes; none where the system has no such thing."""
    if not hasattr(os, "listxattr"):
        return []
    try:
        return [name for name in os.listxattr(file) if name == _ACL or name.startswith("user.")]
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        return []


def _copy(path: Path, handle: int, name: str) -> None:
    system.set_attribute(handle, name, os.getxattr(path, name))


def _allowed(call: Callable[..., None], *values: object) -> bool:
    """Whether the system did it; False where it does not allow it, or has no such thing."""
    try:
        call(*values)
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        return False
    return True
