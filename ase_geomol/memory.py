"""How the C library keeps memory on Linux."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks for this process instead of giving them back; False where there is no glibc.

    A calculation frees and asks again for the same blocks of memory. By default glibc returns each large one to the
    kernel at once, which hands out fresh pages one fault at a time: a fifth of the time of some hundred atoms on a
    processor, and more than half of that of some thousand.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
    except (OSError, AttributeError):
        return False
