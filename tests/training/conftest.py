"""What every test of training needs."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def settings_of_the_process() -> Iterator[None]:
    """A trainer sets threads and denormals for its whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
