"""The head: its training, and its file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnnbatch.classification import FileHead, Head, HeadSettings, HeadTraining, dump_head, fit, parse_head
from cnnbatch.classification.fit import split
from cnnbatch.codec.container.sealed import seal, unseal
from cnnbatch.errors import CnnbatchError, UsageError
from tests.codec.dense_models import dense_codec_file

CODEC = "a" * 64
QUICK = HeadTraining(epochs=15, hidden=16, batch=32, learning_rate=0.01)


def blobs(count: int, *, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around a centre a class, in units as different as features of latents are; one feature never changes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(0, 3, (classes, 6))
    values = (centres[labels] + rng.normal(0, 1, (count, 6))) * [1, 100, 0.01, 1, 1, 1]
    return np.column_stack([values, np.full(count, 7.0)]).astype(np.float32), labels.astype(np.int64)


def fitted(config: HeadTraining = QUICK, count: int = 300, **changes: Any) -> Any:
    features, labels = blobs(count)
    given = {"features": features, "labels": labels} | changes
    return fit(given["features"], given["labels"], classes=("x", "y", "z"), codec_id=CODEC, config=config)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_what_can_be_told_apart_is_and_the_same_input_gives_the_same_head(kind: str) -> None:
    config = QUICK.model_copy(update={"kind": kind})
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = fitted(config)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert dump_head(one.head, training={}) == dump_head(fitted(config).head, training={})
    assert one.accuracy > 0.9
    assert one.commonest == pytest.approx(1 / 3, abs=0.02)
    assert (one.training, one.stopping, one.held_out) == (240, 30, 30)
    fresh, labels = blobs(200, seed=5)
    guesses, probabilities = FileHead(one.head).of(CODEC).predict(fresh)
    assert np.mean(np.array(["xyz".index(name) for name in guesses]) == labels) > 0.9
    assert probabilities.dtype == np.float32
    assert (probabilities > 1 / 3).all()


def test_labels_by_chance_are_told_as_chance() -> None:
    labels = np.random.default_rng(3).integers(0, 3, 900).astype(np.int64)
    features = np.random.default_rng(4).normal(size=(900, 7)).astype(np.float32)
    found = fitted(features=features, labels=labels)
    assert 0.15 < found.accuracy < 0.55


def test_it_stops_when_the_stopping_split_gets_no_better() -> None:
    labels = np.random.default_rng(3).integers(0, 3, 300).astype(np.int64)
    features = np.random.default_rng(4).normal(size=(300, 7)).astype(np.float32)
    config = QUICK.model_copy(update={"epochs": 500, "patience": 3})
    assert fitted(config, features=features, labels=labels).epochs < 100


def test_the_three_splits_are_disjoint_and_hold_every_class() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2 + [3], np.int64)
    parts = split(labels, HeadTraining())
    together = np.concatenate([parts.training, parts.stopping, parts.held_out])
    assert sorted(together.tolist()) == list(range(58))
    assert set(labels[parts.held_out].tolist()) == {0, 1} == set(labels[parts.stopping].tolist())
    assert set(labels[parts.training].tolist()) == {0, 1, 2, 3}


def test_too_little_to_learn_from_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"of one class \('y'\)"):
        fitted(count=30, labels=np.ones(30, np.int64), features=blobs(30)[0])
    with pytest.raises(UsageError, match="too few to hold some out"):
        fitted(count=4)
    with pytest.raises(CnnbatchError, match="not finite"):
        fitted(features=np.full((300, 7), np.nan, np.float32))


def test_a_head_file_gives_the_same_head_back() -> None:
    head = fitted().head
    data = dump_head(head, training={"accuracy": 0.9})
    again = parse_head(data, "h")
    assert again.settings == head.settings
    x = torch.from_numpy(blobs(10)[0])
    with torch.inference_mode():
        assert torch.equal(head(x), again(x))
    metadata, _ = unseal(data)
    assert metadata["training"] == '{"accuracy": 0.9}'
    assert b"pickle" not in data


def test_any_flipped_byte_is_refused() -> None:
    data = dump_head(fitted().head, training={})
    for at in range(0, len(data), max(1, len(data) // 150)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        with pytest.raises(UsageError, match=r"^h"):
            parse_head(bytes(changed), "h")


def _renamed(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    metadata["format"] = "other"


def _newer(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    metadata["version"] = "2"


def _no_settings(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    del metadata["settings"]


def _another_shape(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    arrays["mean"] = np.zeros(3, np.float32)


def _missing(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    del arrays["mean"]


def _not_finite(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    arrays["scale"] = np.full_like(arrays["scale"], np.inf)


def _twice(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    metadata["settings"] = metadata["settings"].replace('"y"', '"x"')


def _enormous(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
    metadata["settings"] = metadata["settings"].replace('"features":7', '"features":65536').replace(":16", ":16384")


@pytest.mark.parametrize(
    "change",
    [_renamed, _newer, _no_settings, _another_shape, _missing, _not_finite, _twice, _enormous],
    ids=lambda f: f.__name__,
)
def test_a_head_file_under_a_right_checksum_is_checked_all_the_same(change: Callable[[Any, Any], None]) -> None:
    metadata, arrays = unseal(dump_head(fitted().head, training={}))
    change(metadata, arrays)
    with pytest.raises(UsageError, match=r"^h"):
        parse_head(seal(arrays, metadata), "h")


@pytest.mark.parametrize("data", [b"", b"no head", dense_codec_file()], ids=["empty", "text", "codec file"])
def test_what_is_no_head_file_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"^h is"):
        parse_head(data, "h")


def test_a_head_refuses_features_of_another_length() -> None:
    head = Head(HeadSettings(kind="linear", features=4, classes=("x", "y"), codec_ids=(CODEC,)))
    with pytest.raises(UsageError, match="takes 4 features, the codec gives 5"):
        FileHead(head).of(CODEC).predict(np.zeros((1, 5), np.float32))
