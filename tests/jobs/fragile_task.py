"""A worker that Ray's processes can import: a test module they could not."""

import os
import signal

from cnnbatch.errors import StorageError


class Fragile:
    """A worker for `jobs.ray_tasks`: some tasks kill its process, some find their store in trouble."""

    def __call__(self, task: str) -> str:
        if task == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "trouble":
            raise StorageError("the store is away")
        return task.upper()
