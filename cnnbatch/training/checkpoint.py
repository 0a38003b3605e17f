"""Training checkpoints as safetensors: no pickle, so a checkpoint from anywhere is safe to read."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.errors import StorageError

Progress = dict[str, float]
"""``step``, ``seconds`` (of training, over all resumes), ``pixels``; ``cooling`` once the state before that is kept."""


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer | None,
    progress: Progress,
    settings: dict[str, Any],
) -> None:
    """Writes to a temporary file and renames, so that a kill leaves the previous checkpoint. Raises StorageError."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for name, parameter in model.named_parameters():
        for kind in ("exp_avg", "exp_avg_sq"):
            if optimiser is not None and kind in optimiser.state.get(parameter, {}):
                tensors[f"{kind}.{name}"] = optimiser.state[parameter][kind]
    temporary = path.with_name(f"{path.name}.partial")
    data = save(
        {name: value.contiguous().cpu() for name, value in tensors.items()},
        metadata={"progress": json.dumps(progress), "settings": json.dumps(settings)},
    )
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write a checkpoint to {path.parent}: {error.strerror}") from error


def save_start(path: Path, model: nn.Module) -> None:
    """Writes a state whose training has not begun: the weights of ``model``, which has ``settings``."""
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings: Any = model.settings
    progress: Progress = {"step": 0, "seconds": 0.0, "pixels": 0}
    save_checkpoint(
        path, model=model, average=average, optimiser=None, progress=progress, settings=settings.model_dump(mode="json")
    )


def averaged_model(path: Path) -> Hyperprior:
    """The model with the moving average of the weights, as a codec file gets it."""
    model = Hyperprior(HyperpriorSettings.model_validate(read_settings(path)))
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(f"average.{name}") for name, _ in model.named_parameters()})
    return model.eval()


def is_checkpoint(path: Path) -> bool:
    """Whether a local file is a training checkpoint, and not a codec file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {"progress", "settings"} <= (file.metadata() or {}).keys()
    except (OSError, SafetensorError):
        return False


def read_settings(path: Path) -> dict[str, Any]:
    """The model settings a checkpoint was written with."""
    with safe_open(path, framework="pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["settings"])
    return settings


def read_progress(path: Path) -> Progress:
    """How far a run was when a checkpoint was written."""
    with safe_open(path, framework="pt") as file:
        progress: Progress = json.loads(file.metadata()["progress"])
    return progress


def load_checkpoint(path: Path, *, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Progress:
    """Restores model, moving average and optimiser moments in place.

    A parameter the checkpoint lacks (the model has grown since) keeps its initial value.
    """
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        progress: Progress = json.loads(file.metadata()["progress"])
        for name, parameter in model.named_parameters():
            if f"model.{name}" not in names:
                continue
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
            average[name].copy_(file.get_tensor(f"average.{name}"))
            if f"exp_avg.{name}" in names:
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(progress["step"]), device=parameter.device),
                    "exp_avg": file.get_tensor(f"exp_avg.{name}").to(parameter.device),
                    "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}").to(parameter.device),
                }
    return progress
