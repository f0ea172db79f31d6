"""Writing files so that a crash, a full disk or a power cut never leaves half of one."""

from .atomic import atomic_file, sweep, write_bytes, write_json, write_text
from .tensors import read_tensors, write_tensors

__all__ = ["atomic_file", "read_tensors", "sweep", "write_bytes", "write_json", "write_text", "write_tensors"]
