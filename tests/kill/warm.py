"""What the server of `tests.kill.child` imports before it forks: all of cnnbatch, and the entropy coder compiled."""

import threading

import numpy as np
import ray.data  # noqa: F401
import torch

from cnnbatch.codec import Codec
from tests.kill import campaign, child  # noqa: F401 - a fork imports its parent's main module again, and with it this

torch.set_num_threads(1)
_codec = Codec.load(child.CODEC, device="cpu")
_codec.reconstruct(_codec.compress([np.zeros((32, 32, 3), np.uint8)]))
assert threading.active_count() == 1, "a fork has the thread that forked alone"
