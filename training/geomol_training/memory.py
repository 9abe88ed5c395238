"""How the C library keeps memory on Linux."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks instead of giving them back to the kernel; False where there is no glibc.

    A training step frees and asks again for the same hundreds of megabytes. By default glibc returns each
    large block at once, and the kernel then hands out fresh pages one fault at a time: 15-20 % of a CPU step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        kept = libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        return bool(kept and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
