"""The process that codes: settings that a library must not change behind its caller's back."""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc

KEPT_BYTES = 1 << 30
"""Freed memory that the process keeps."""

LARGEST_KEPT_BYTES = 32 << 20
"""Larger blocks go back to the system as soon as they are freed; glibc takes no larger number."""


def dedicate_process() -> None:
    """For the workers of the jobs: one torch thread for each of the codec's own, and freed memory is kept for reuse.

    Every batch frees and takes buffers of some megabytes. glibc gives such blocks back to the system each time, and the
    kernel clears them anew, page by page: a sixth of the time of encoding. Where there is no glibc, nothing of that.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(_M_TOP_PAD, 64 << 20)  # else the heaps of threads are given back, 64 MB each
