"""Every error that a user can cause.

    SiltstoneError
    ├── ConfigError            a key, a value or a combination of keys that cannot work   (ValueError)
    ├── InputError             ids, masks, prompts or states that do not fit the model    (ValueError)
    │   └── PositionError      a position that a session cannot go back to
    ├── TokenizerError         a tokenizer that cannot be read, trained or does not fit
    ├── DataError              text that is empty, binary or not UTF-8
    ├── CheckpointError        a run folder, or a pretrained model, that is missing, damaged or has NaN weights
    │   └── UnsupportedModel   a pretrained model with parts that Siltstone lacks, or a model that transformers lacks
    ├── SessionFileError       a session file that cannot be used
    │   ├── SessionCorrupt     truncated, altered, or no session file at all
    │   ├── SessionMismatch    written by another model, configuration or tokenizer
    │   └── SessionVersion     written by a newer Siltstone
    ├── BusyError              a session whose earlier call has not returned, or that     (RuntimeError)
    │                          is in a batch and was called directly
    ├── BatchFull              a batch without a free slot                                (RuntimeError)
    ├── OutOfMemory            no memory for a larger state                               (MemoryError)
    │   └── PoolFull           the same, or a pool of pages is full; the state is unchanged
    ├── StorageError           the disk is full or the folder cannot be written           (OSError)
    │   ├── InUse              another session or run is writing the file
    │   ├── SpillFailed        blocks cannot be written to their page file, or read back; the session is as it was
    │   ├── FileChanged        another writer replaced the file since it was read
    │   └── NotDurable         the file was replaced, but a power failure may undo that
    ├── ServerError            a server that cannot be reached, or that refused a call    (RuntimeError)
    └── OutputError            standard output cannot be written, or its reader closed it (OSError)

Messages name the argument, what was given, what was expected and the mend. `FormatWarning` is a warning: the file has an early
format, without an integrity check that later formats have. `RenamedKeyWarning` is a DeprecationWarning: a key has its older name.
`RuntimeChanged` is a warning: a session continues in 8 bits, or no longer in 8 bits.
"""

from __future__ import annotations

from typing import ClassVar


class SiltstoneError(Exception):
    """Base of all errors above; the command line prints it as one line and exits with code 2."""


class ConfigError(SiltstoneError, ValueError):
    """A configuration that cannot work."""


class InputError(SiltstoneError, ValueError):
    """An argument that does not fit the model or the session."""


class PositionError(InputError):
    """A position that a session cannot go back to."""


class TokenizerError(SiltstoneError):
    """A tokenizer that cannot be read or trained, or that does not fit the model."""


class DataError(SiltstoneError):
    """Text that cannot be used."""


class CheckpointError(SiltstoneError):
    """A run folder, or the folder of a pretrained model, that cannot be used."""


class UnsupportedModel(CheckpointError):
    """A pretrained model with parts that Siltstone lacks, or a model of ours with parts that transformers' decoders lack."""


class SessionFileError(SiltstoneError):
    """A session file that cannot be used."""


class SessionCorrupt(SessionFileError):
    """The file is truncated, altered, or not a session file."""


class SessionMismatch(SessionFileError):
    """The file or session belongs to another model, other weights, another configuration or tokenizer."""


class SessionVersion(SessionFileError):
    """The file was written by a newer version of the format."""


class BusyError(SiltstoneError, RuntimeError):
    """A session was called before an earlier call returned, from another thread or from inside that call, or while it is in a
    batch."""


class BatchFull(SiltstoneError, RuntimeError):
    """Every slot of a batch is taken."""


class OutOfMemory(SiltstoneError, MemoryError):
    """There is no memory for a larger state."""


class PoolFull(OutOfMemory):
    """There is no room for another checkpoint, in a pool of pages or in memory; the state that was to get it is unchanged."""


class StorageError(SiltstoneError, OSError):
    """Writing failed: no space, no permission, or a missing folder.

    replaced    whether the new file is in place; if False, the old file is unchanged
    """

    replaced: ClassVar[bool] = False


class SpillFailed(StorageError):
    """The page file of a session's blocks cannot be made, written or read; the session is as it was before the call."""


class InUse(StorageError):
    """Another session or run is writing the file or folder."""


class FileChanged(StorageError):
    """Another writer replaced the file since it was read; that writer's file is kept."""


class NotDurable(StorageError):
    """The new file is in place, but the disk did not confirm it: after a power failure the old file may be back."""

    replaced: ClassVar[bool] = True


class OutputError(SiltstoneError, OSError):
    """Standard output cannot be written.

    closed    whether the reader closed it. This is not a fault: the exit code is 141, and no message is printed
    """

    closed = False


class ServerError(SiltstoneError, RuntimeError):
    """A server cannot be reached, or refused a call.

    status    the status code of its answer, or None
    param     the field that the server named, or None
    code      the kind of refusal, such as quota_exceeded or expired, or None
    """

    status: int | None = None
    param: str | None = None
    code: str | None = None


class RenamedKeyWarning(DeprecationWarning):
    """A configuration has a key under its older name, which still works; shown once a process for each key."""


class FormatWarning(UserWarning):
    """A file of an early version was read, without an integrity check that later versions write; saving it again adds it."""


class RuntimeChanged(UserWarning):
    """A session was saved with `runtime="int8"` and continues without it, or the other way round: its state is that of other
    weights."""
