"""Permissions: a new file gets the permissions, owner and attributes of the file that it replaces."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from . import system

_ACL = "system.posix_acl_access"
_NOT_ALLOWED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL)


def keep_access(handle: int, path: Path, found: os.stat_result) -> None:
    """Copies permissions, owner and group, access list and user attributes of `path` to an open new file.

    found   the stat result of `path`
    If the system does not allow the owner, the writer is the owner. If it does not allow the group or the access list, the group
    gets only the permissions of others. On filesystems without permissions nothing happens. Raises OSError for a failing disk.
    """
    mode, made = found.st_mode & 0o777, os.fstat(handle)
    if found.st_uid != made.st_uid:
        _allowed(system.chown, handle, found.st_uid, -1)
    kept = found.st_gid == made.st_gid or _allowed(system.chown, handle, -1, found.st_gid)
    names = _attributes(path)
    if _ACL in _attributes(handle) and _ACL not in names:  # a default access list of the folder
        kept &= _allowed(system.remove_attribute, handle, _ACL)
    for name in names:
        kept &= _allowed(_copy, path, handle, name) or name != _ACL
    if not kept:
        mode &= ~0o070 | (mode & 0o007) << 3
    _allowed(system.chmod, handle, mode)


def _attributes(file: Path | int) -> list[str]:
    """Names of the access list and of the user attributes; none if the system does not support them."""
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
    """Whether the call succeeded; False if the system does not allow or support it."""
    try:
        call(*values)
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        return False
    return True
