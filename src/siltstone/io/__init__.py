"""Writing files so that a crash, a full disk or a power cut never leaves half of one."""

from .atomic import atomic_file, sweep, write_bytes, write_json, write_text
from .lock import Claim, claim
from .place import ABSENT, Stamp, stamp
from .tensors import read_tensors, write_tensors

__all__ = [
    "ABSENT",
    "Claim",
    "Stamp",
    "atomic_file",
    "claim",
    "read_tensors",
    "stamp",
    "sweep",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]
