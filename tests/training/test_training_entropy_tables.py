import numpy as np

from cnnbatch.codec import Codec
from cnnbatch.codec.container.sealed import unseal
from cnnbatch.codec.entropy_coding.tables import PRECISION
from cnnbatch.training.entropy_tables import with_fitted_tables
from tests.codec.models import tiny_codec_file

DATA = tiny_codec_file()
PICTURES = [np.random.default_rng(n).integers(0, 256, (70, 90, 3)).astype(np.uint8) for n in range(2)]


def test_fitted_tables_are_symmetric_and_code_the_same_pictures_in_fewer_bytes():
    fitted = with_fitted_tables(DATA, PICTURES)
    sizes = []
    for data in (DATA, fitted):
        codec = Codec(data)
        bitstreams = codec.compress(PICTURES, quality=30)
        assert [image.shape for image in codec.reconstruct(bitstreams)] == [p.shape for p in PICTURES]
        sizes.append(sum(len(b) for b in bitstreams))
    assert sizes[1] < sizes[0]
    arrays = unseal(fitted)[1]
    ends = np.cumsum(2 * arrays["tables.radius"] + 2)
    for table in np.split(arrays["tables.frequencies"].astype(np.int64), ends[:-1]):
        assert table.sum() == 1 << PRECISION
        assert np.count_nonzero(table[:-1] != table[:-1][::-1]) <= 2  # what rounding leaves goes to one symbol


def test_pictures_without_a_whole_block_are_left_out():
    small = np.zeros((15, 40, 3), np.uint8)
    assert with_fitted_tables(DATA, [*PICTURES, small]) == with_fitted_tables(DATA, PICTURES)
