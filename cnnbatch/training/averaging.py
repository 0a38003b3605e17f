"""The state of any trainer: a network, the moving average of its weights, which codec files get, and the optimiser."""

from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor, nn

from cnnbatch.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from cnnbatch.training.run import Run

AVERAGE_DECAY: Final = 0.999

Network = TypeVar("Network", bound=nn.Module)


class Averaging(Generic[Network]):
    """A trainer's state, which it keeps as checkpoints and goes on from."""

    def __init__(self, model: Network, optimiser: torch.optim.Optimizer, run: Run, state: Path | None) -> None:
        """Takes weights, average, moments and progress from ``state``, where there is one."""
        self.model, self.optimiser, self.surroundings = model, optimiser, run
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.progress: Progress = {"step": 0, "seconds": 0.0, "pixels": 0}
        if state is not None:
            self.progress |= load_checkpoint(state, model=model, average=self.average, optimiser=optimiser)
            if self.progress["step"] and not run.rank:
                run.say(f"goes on from the checkpoint of step {self.progress['step']:.0f}")

    def averaged_model(self) -> Network:
        """A copy of the model with the moving average of its weights, on the CPU."""
        model = type(self.model)(self._settings)
        model.load_state_dict(self.average)
        return model.eval()

    def save(self) -> None:
        """Keeps a checkpoint; every process calls it."""
        self.surroundings.keep(self._write)

    @property
    def _settings(self) -> Any:
        return self.model.settings

    def _write(self, path: Path) -> None:
        save_checkpoint(
            path,
            model=self.model,
            average=self.average,
            optimiser=self.optimiser,
            progress=self.progress,
            settings=self._settings.model_dump(mode="json"),
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        """Moves the average of the first process, which alone needs one, towards the weights."""
        if self.surroundings.rank:
            return
        step = self.progress["step"]
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.model.parameters()], 1 - decay)
