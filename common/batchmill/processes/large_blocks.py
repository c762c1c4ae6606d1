"""Memory of large blocks, which a process that runs for months returns to the system as soon as it is free."""

from __future__ import annotations

import ctypes

import pyarrow as pa

M_MMAP_THRESHOLD = -3
"""The parameter of `mallopt` in glibc: blocks of this many bytes or more are mapped, each by itself."""
LARGE_BYTES = 1024 * 1024


def return_large_blocks() -> None:
    """Let Arrow take its memory from the system's allocator, and that one map large blocks by themselves.

    Arrow's own allocator keeps what was freed, and glibc raises its threshold with the first large block that is
    freed, so that later ones stay in its heap: after pages of results of 16 MiB a process kept 40 MB. Where there is no
    `mallopt`, only the first part is done.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE_BYTES)
