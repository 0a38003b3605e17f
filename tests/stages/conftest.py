"""The shipped codec, loaded once."""

import pytest

from cnnbatch.codec import Codec


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec.load(device="cpu")
