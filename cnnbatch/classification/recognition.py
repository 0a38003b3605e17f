"""Features → labels: with a head file, or with the head that a labelled dense codec file carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cnnbatch.classification.head import Head
from cnnbatch.codec import Codec
from cnnbatch.errors import UsageError
from cnnbatch.stages.codec_shelf import CodecShelf

CODEC_HEAD: Final = "codec"
"""In place of a head file: the head inside the codec file that the pictures were coded with."""


@dataclass(frozen=True, slots=True)
class Recogniser:
    """One head: how many features it takes, and the names of its outputs."""

    head: nn.Module
    num_features: int
    classes: tuple[str, ...]

    def predict(self, features: npt.NDArray[np.float32]) -> tuple[list[str], npt.NDArray[np.float32]]:
        """float32 [N, F] → the most probable label of each, and its probability float32 [N].

        Raises UsageError for other features than the head takes.
        """
        if features.shape[1] != self.num_features:
            raise UsageError(f"the head takes {self.num_features} features, the codec gives {features.shape[1]}")
        with torch.inference_mode():
            probabilities, places = self.head(torch.from_numpy(features)).softmax(1).max(1)
        return [self.classes[place] for place in places.tolist()], probabilities.numpy().astype(np.float32)


class Heads(Protocol):
    """Which recogniser a codec's features go to."""

    def codec_ids(self, present: Sequence[str]) -> frozenset[str]:
        """Those of the codec ids ``present`` in an archive whose features it can tell apart; raises UsageError for none."""

    def of(self, codec_id: str) -> Recogniser:
        """For one of `codec_ids`."""


@dataclass(frozen=True, slots=True)
class FileHead:
    """The head of a head file, which knows the codecs that it was trained on and no other."""

    head: Head

    def codec_ids(self, present: Sequence[str]) -> frozenset[str]:
        """See `Heads.codec_ids`."""
        known = self.head.settings.codec_ids
        if found := frozenset(known) & frozenset(present):
            return found
        raise UsageError(
            f"the head was trained on pictures coded by {_names(known)}, the archive's are coded by {_names(present)}: "
            "train a head on this archive"
        )

    def of(self, codec_id: str) -> Recogniser:
        """See `Heads.of`."""
        return Recogniser(self.head, self.head.settings.features, self.head.settings.classes)


@dataclass(frozen=True, slots=True)
class CodecHeads:
    """Every codec's own head."""

    shelf: CodecShelf

    def codec_ids(self, present: Sequence[str]) -> frozenset[str]:
        """See `Heads.codec_ids`."""
        found = frozenset(codec_id for codec_id in present if learned_classes(self.shelf[codec_id]))
        if not found:
            raise UsageError(
                f"no codec file of the archive ({_names(present)}) carries a head: only one that `jobs.train` made with "
                "--architecture dense --labels does; `jobs.classify train` makes a head for any"
            )
        return found

    def of(self, codec_id: str) -> Recogniser:
        """See `Heads.of`."""
        model = self.shelf[codec_id].file.model()
        return Recogniser(model.head, model.settings.latents, learned_classes(self.shelf[codec_id]))


def learned_classes(codec: Codec) -> tuple[str, ...]:
    """The classes that a codec file learned to tell apart, by the labels of its training pictures; empty: none."""
    return tuple(getattr(codec.file.settings, "classes", ()))


def _names(codec_ids: Sequence[str]) -> str:
    return ", ".join(sorted(codec_id[:12] for codec_id in codec_ids)) or "none"
