"""Files: atomic writing, safe against crashes, full disks and power failures, and reading of untrusted files."""

from .atomic import atomic_file, sweep, write_bytes, write_json, write_text
from .checked import checked_line, read_checked, read_lines, write_checked
from .lock import Claim, claim
from .place import ABSENT, Stamp, stamp
from .tensors import SEAL, read_tensors, write_sealed, write_tensors

__all__ = [
    "ABSENT",
    "SEAL",
    "Claim",
    "Stamp",
    "atomic_file",
    "checked_line",
    "claim",
    "read_checked",
    "read_lines",
    "read_tensors",
    "stamp",
    "sweep",
    "write_bytes",
    "write_checked",
    "write_json",
    "write_sealed",
    "write_tensors",
    "write_text",
]
