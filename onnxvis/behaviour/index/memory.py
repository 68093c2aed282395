"""Keeping the memory of a long pass flat where glibc allocates it.

glibc keeps what many threads freed in a pool for each, and after a large array was freed it serves arrays of that size
from those pools too. Nothing leaks, but the process grows for thousands of pictures before it stops.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_memory", "map_large_arrays"]

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library, ``None`` where it has none of that name (musl, macOS, Windows)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def give_back_memory() -> None:
    """Return freed memory to the system."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def map_large_arrays() -> None:
    """Give arrays above a megabyte memory of their own, returned when they are freed.

    This holds for the whole process, so it is for a command and not for a library call.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
