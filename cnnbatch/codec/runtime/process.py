"""The process that codes: settings that a library must not change behind its caller's back."""

import torch

from cnnbatch.processes import keep_freed_memory


def dedicate_process() -> None:
    """For the workers of the jobs: one torch thread for each of the codec's own, and freed memory is kept for reuse."""
    torch.set_num_threads(1)
    keep_freed_memory()
