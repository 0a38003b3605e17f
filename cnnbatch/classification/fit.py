"""Training of a head: standardise, then cross-entropy with Adam until a split that it does not learn from gets no better.

The pictures are split three ways, class by class: most to learn from, some to stop by, and some held out of both. The
accuracy that is told is that on the held-out ones: what decided when to stop would look better than it is.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from cnnbatch.classification.head import Head, HeadSettings, Kind
from cnnbatch.errors import CnnbatchError, UsageError

RATE_DROP = 0.3
RATE_PATIENCE = 2
"""Epochs without a better loss on the stopping split before the learning rate falls by `RATE_DROP`."""

Labels = npt.NDArray[np.int64]


class HeadTraining(BaseModel):
    """One training run of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "mlp"
    hidden: int = Field(256, ge=1, le=1 << 14)
    dropout: float = Field(0.3, ge=0, lt=1)
    epochs: int = Field(60, gt=0)
    """At most."""
    patience: int = Field(6, gt=0)
    """Epochs without a better loss on the stopping split before it ends."""
    batch: int = Field(256, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    stopping_share: float = Field(0.1, gt=0, le=0.4)
    held_out_share: float = Field(0.1, gt=0, le=0.4)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Split:
    """Places of the pictures, int64 each."""

    training: Labels
    stopping: Labels
    held_out: Labels


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained head. ``accuracy`` and ``commonest`` (what saying always the commonest class would find) are shares of the
    ``held_out`` pictures."""

    head: Head
    accuracy: float
    commonest: float
    training: int
    stopping: int
    held_out: int
    epochs: int


def split(labels: Labels, config: HeadTraining) -> Split:
    """Class by class, by chance; a class of one or two pictures is only learned from.

    Raises UsageError where nothing would be held out.
    """
    rng = np.random.default_rng(config.seed)
    training, stopping, held_out = [], [], []
    for place in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == place))
        few = len(own) < 3
        first = 0 if few else max(1, round(config.held_out_share * len(own)))
        second = first if few else first + max(1, round(config.stopping_share * len(own)))
        held_out.append(own[:first])
        stopping.append(own[first:second])
        training.append(own[second:])
    found = Split(*(np.sort(np.concatenate(parts)) for parts in (training, stopping, held_out)))
    if not len(found.held_out):
        raise UsageError(f"{len(labels)} labelled pictures, fewer than 3 of every class: too few to hold some out")
    return found


def fit(
    features: npt.NDArray[np.float32],
    labels: Labels,
    *,
    classes: Sequence[str],
    codec_id: str,
    config: HeadTraining,
) -> Fitted:
    """``features`` [N, F] of pictures coded by ``codec_id``, ``labels`` [N] places in ``classes`` → a head.

    The same input gives the same head on the same machine. Raises UsageError where the labels are of one class, or too few.
    """
    present = np.unique(labels)
    if len(present) < 2:
        names = ", ".join(repr(classes[place]) for place in present) or "none"
        raise UsageError(f"the labelled pictures are of one class ({names}): there is nothing to tell apart")
    if not np.isfinite(features).all():
        raise CnnbatchError(f"features of codec {codec_id[:12]} are not finite")
    parts = split(labels, config)
    settings = HeadSettings(
        kind=config.kind, features=features.shape[1], hidden=config.hidden, classes=tuple(classes), codec_ids=(codec_id,)
    )
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = Head(settings, dropout=config.dropout)
        _standardise(head, x[parts.training])
        epochs = _train(head, x, y, parts, config)
    accuracy = float((_logits(head, x[parts.held_out]).argmax(1) == y[parts.held_out]).float().mean())
    counts = np.bincount(labels[parts.held_out], minlength=len(classes))
    commonest = float(counts[np.bincount(labels[parts.training]).argmax()] / counts.sum())
    return Fitted(
        head,
        accuracy,
        commonest,
        training=len(parts.training),
        stopping=len(parts.stopping),
        held_out=len(parts.held_out),
        epochs=epochs,
    )


def _standardise(head: Head, x: Tensor) -> None:
    """A feature that never changes keeps its scale: divided by next to nothing it would drown the others."""
    deviation = x.std(0, correction=0)
    head.mean.copy_(x.mean(0))
    head.scale.copy_(torch.where(deviation > 1e-6 * x.abs().amax().clamp(min=1e-6), deviation, torch.ones_like(deviation)))


def _train(head: Head, x: Tensor, y: Tensor, parts: Split, config: HeadTraining) -> int:
    """Leaves the weights of the best epoch in ``head``; returns how many epochs were run."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=RATE_DROP, patience=RATE_PATIENCE)
    training, stopping = torch.from_numpy(parts.training), torch.from_numpy(parts.stopping)
    best, best_loss, since = copy.deepcopy(head.state_dict()), math.inf, 0
    epoch = 0
    while epoch < config.epochs and since < config.patience:
        epoch += 1
        head.train()
        for chosen in torch.split(training[torch.randperm(len(training))], config.batch):
            loss = F.cross_entropy(head(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        found = float(F.cross_entropy(_logits(head, x[stopping]), y[stopping]))
        schedule.step(found)
        since += 1
        if found < best_loss:
            best, best_loss, since = copy.deepcopy(head.state_dict()), found, 0
    head.load_state_dict(best)
    head.eval()
    return epoch


def _logits(head: Head, x: Tensor) -> Tensor:
    head.eval()
    with torch.inference_mode():
        return torch.cat([head(part) for part in torch.split(x, 4096)])
