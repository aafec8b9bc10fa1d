"""The memory of tensors on a CPU: kept from one to the next instead of fetched anew."""

from __future__ import annotations

import ctypes
import platform

# Of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors for the next ones.

    By default glibc gives every large tensor back to the system, which hands out the next one page
    by page, each filled with zeros first: for tensors that are written once that takes longer than
    most operators. A training or evaluation frees and asks for the same sizes over and over.

    Returns:
        Whether this could be set; the system's C library must be glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    most = 2**31 - 1
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, most), (M_TOP_PAD, 64 * 2**20))
    return all([mallopt(name, value) == 1 for name, value in settings])
