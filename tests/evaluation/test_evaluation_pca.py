"""Principal components: small pictures come back, better with more bytes, and what is damaged or of another size is refused."""

import itertools

import numpy as np
import pytest

from cnnbatch.errors import BitstreamError
from cnnbatch.evaluation import pca
from cnnbatch.evaluation.measurement import measure
from tests.codec.dense_models import COLOUR, GRAY, pictures


@pytest.fixture(scope="module")
def codec() -> pca.PrincipalComponents:
    components = pca.learn(pictures(GRAY, 350))
    assert isinstance(components, pca.Components)
    return pca.PrincipalComponents(components)


def test_more_quality_is_more_bytes_and_less_distortion(codec: pca.PrincipalComponents) -> None:
    unseen = pictures(GRAY, 400)[350:]
    means = []
    for quality in (0, 8, 16, 24, pca.SPEC.highest):
        rows = [measure(codec, quality, picture) for picture in unseen]
        assert {row.error for row in rows} == {None}
        means.append((np.mean([row.num_bytes or 0 for row in rows]), np.mean([row.psnr_db or 0 for row in rows])))
    assert all(a[0] < b[0] and a[1] + 1 < b[1] for a, b in itertools.pairwise(means))
    assert means[0][0] < 10
    assert means[-1][1] > 45


def test_the_components_are_orthonormal_and_most_of_the_variance_comes_first(codec: pca.PrincipalComponents) -> None:
    rows = codec.components.rows
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-3)
    deviations = codec.components.training.std(0)
    assert (np.diff(deviations) < 1e-2).all()


def test_colour_and_fewer_pictures_than_samples_are_learned() -> None:
    components = pca.learn(pictures(COLOUR, 30))
    assert isinstance(components, pca.Components)
    codec, image = pca.PrincipalComponents(components), pictures(COLOUR, 1)[0]
    assert codec.decode(codec.encode(image, 20)).shape == image.shape


def test_a_damaged_file_and_another_size_are_errors(codec: pca.PrincipalComponents) -> None:
    image = pictures(GRAY, 1)[0]
    data = codec.encode(image, 16)
    for damaged in (data[:-1], data + b"x", data[:3], b""):
        with pytest.raises(BitstreamError):
            codec.decode(damaged)
    assert codec.refusal(image[:5]) == "other-size"
    row = measure(codec, 16, image[:5])
    assert (row.stage, row.error) == ("encode", "ValueError: a picture of 14×5, the components are of 14×9")


def test_pictures_that_cannot_be_learned_from_are_said() -> None:
    assert "no picture" in str(pca.learn([]))
    assert "of several: 8×9, 9×9" in str(pca.learn([np.zeros((9, 9), np.uint8), np.zeros((9, 8), np.uint8)]))
    assert "up to 12,288 samples, and these have 12,675" in str(pca.learn([np.zeros((65, 65, 3), np.uint8)]))
