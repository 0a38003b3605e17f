"""Settings for a run that starts from a trained codec file, where nobody gives them."""

import math
from typing import Any, Final

from cnnbatch.training.trainer import TrainingConfig

USUAL: Final = 500
"""Pictures of a set that trains for `MINUTES` at `LEARNING_RATE`."""

MINUTES: Final = 30.0
LEAST_MINUTES: Final = 15.0
MOST_MINUTES: Final = 480.0
LEARNING_RATE: Final = 0.002
LEAST_SHARE: Final = 0.5
"""Share of that learning rate for the smallest sets."""


def suited(config: TrainingConfig, pictures: int) -> TrainingConfig:
    """``config`` with what suits a trained network and so many pictures in place of what it leaves open.

    Four times the pictures hold more that is new, but not four times as much: they train twice as long. A few are soon
    learned by heart, so they move the network more slowly. Crops are as large as the measures look.
    """
    size = max(1, pictures) / USUAL
    values: dict[str, Any] = {
        "crop": 128,
        "cooldown_share": 0.5,
        "minutes": min(MOST_MINUTES, max(LEAST_MINUTES, round(MINUTES * math.sqrt(size)))),
        "learning_rate": LEARNING_RATE * min(1.0, max(LEAST_SHARE, size**0.25)),
    }
    return config.model_copy(update={name: value for name, value in values.items() if name not in config.model_fields_set})
