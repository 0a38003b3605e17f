"""The training loop of the hyperprior: warm-up, constant learning rate, cool-down; resumable at every checkpoint.

loss = Σ over images of λ^-½ · (distortion + bpp), the distortion that of the codec's objective (λ·MSE for PSNR), quality drawn
per image, symbols as an encoder chooses them, with straight-through gradients. Several processes of one thread with averaged
gradients use small CPUs better than OpenMP threads.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.training.checkpoint import Progress, load_checkpoint, read_settings, save_checkpoint
from cnnbatch.training.data import Pixels, crops
from cnnbatch.training.evaluation import rate_distortion
from cnnbatch.training.klt import block_klt
from cnnbatch.training.objective import training_distortion

logger = logging.getLogger(__name__)

WARMUP_STEPS = 300
AVERAGE_DECAY = 0.999
GRADIENT_NORM = 40.0
"""About the 99th percentile: clips spikes, not every step."""

RELATIVE_RATES = {
    "g_a.bypass.": 0.2,
    "g_s.bypass.": 0.2,
    "g_a.prefilter.": 0.2,
    "g_s.postfilter.": 0.2,
    "g_a.leave.": 0.12,
    "g_s.leave.": 0.12,
    "mean_net.step_factors": 0.5,
    "scale_net.leave.": 10.0,
    "scale_offset.": 10.0,
    "z_scale.": 10.0,
    "prediction.": 0.3,
    "hyper_context.": 0.1,
}
"""Learning rate relative to the others, by the beginning of a name, from the size of an update over that of the weight:
the KLT undoes its good start when it moves fast, the last layers of both transforms write in large units, and what is
counted in scale indexes (a ninth of a nat each) hardly moved at the common rate."""

FAN_IN = 128
"""Matrices of the transforms learn at FAN_IN ÷ inputs of the common rate, so that a step changes the outputs of all
equally (Yang et al., "Tensor Programs V", arXiv 2203.03466, table 3)."""


class TrainingConfig(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(60.0, gt=0)
    """Wall-clock time of the run, all resumes together."""
    cooldown_share: float = Field(0.35, ge=0, le=1)
    crop: int = Field(64, ge=64, multiple_of=64)
    """Many small crops teach more than few large ones of as many pixels."""
    cooldown_crop: int = Field(128, ge=64, multiple_of=64)
    """Larger at the end: inside a picture most latents are not at its border."""
    pixels_per_step: int = 8 * 128**2
    """Per process."""
    learning_rate: float = 4e-3
    seed: int = 0
    processes: int = Field(1, ge=1)
    bf16: bool | None = None
    """None: measured at the start."""
    checkpoint_minutes: float = 3.0
    report_minutes: float = 6.0


class Trainer:
    """State of one process of a run; process 0 writes checkpoints and reports."""

    def __init__(
        self,
        config: TrainingConfig,
        settings: HyperpriorSettings,
        pictures: tuple[list[Pixels], list[Pixels]],
        checkpoint: Path,
        *,
        rank: int = 0,
        start: Hyperprior | None = None,
    ) -> None:
        """A checkpoint at ``checkpoint`` wins over ``start``, weights to go on from; without either the KLT is the start."""
        self.config, self.checkpoint, self.rank = config, checkpoint, rank
        self.train_pictures, dev = pictures
        self.dev_pictures = dev or self.train_pictures
        torch.set_flush_denormal(True)  # zero-initialised layers fill gradients with denormals: five times slower
        dedicate_process()
        torch.manual_seed(config.seed)  # all processes begin with the same weights
        if checkpoint.exists():
            settings, start = HyperpriorSettings.model_validate(read_settings(checkpoint)), None
        self.model = Hyperprior(settings) if start is None else start
        self.optimiser = _optimiser(self.model, config.learning_rate)
        self.progress: Progress = {"step": 0, "seconds": 0.0, "pixels": 0}
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        if checkpoint.exists():
            self.resume(checkpoint)
        elif start is None:
            self._initialise()
        torch.manual_seed(config.seed + rank)
        self.bf16 = config.bf16 if config.bf16 is not None else bf16_is_faster()
        self.rng = np.random.default_rng([config.seed, rank, int(self.progress["step"])])
        self._batches: dict[int, Iterator[Pixels]] = {}

    def resume(self, path: Path) -> None:
        """Continues from ``path``."""
        self.progress = load_checkpoint(path, model=self.model, average=self.average, optimiser=self.optimiser)
        logger.info("resumed %s at step %d", path, self.progress["step"])

    def _initialise(self) -> None:
        klt = block_klt(self.train_pictures, self.model.settings.latent_channels, prefilter=self.model.g_a.prefilter)
        self.model.initialise_from_klt(*klt)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def run(self, on_report: Callable[[Hyperprior, Progress], None] | None = None) -> None:
        """Trains until ``minutes`` have passed; ``on_report`` gets the averaged model at the end."""
        last_save = last_report = start = time.monotonic() - self.progress["seconds"]
        loss = math.nan  # stays so when the run had already ended
        while self.progress["seconds"] < 60 * self.config.minutes:
            loss = self._step()
            now = time.monotonic()
            self.progress["seconds"] = self._agreed(now - start)
            if self.rank:
                continue
            if now - last_save > 60 * self.config.checkpoint_minutes:
                last_save = now
                self.save()
            if now - last_report > 60 * self.config.report_minutes:
                last_report = now
                self.report(loss)
        if not self.rank:
            self.save()
            self.report(loss)
            if on_report:
                on_report(self.averaged_model(), self.progress)

    def _agreed(self, seconds: float) -> float:
        """All processes must see the same clock, or they would stop at different steps."""
        if self.config.processes == 1:
            return seconds
        shared = torch.tensor([seconds], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def _step(self) -> float:
        share = self.progress["seconds"] / (60 * self.config.minutes)
        cooling = (share - (1 - self.config.cooldown_share)) / max(self.config.cooldown_share, 1e-9)
        rate = self._learning_rate(cooling)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        if cooling > 0 and not self.before_cooldown.exists() and not self.rank:
            self.save(self.before_cooldown)
        x, quality = self._batch(self.config.cooldown_crop if cooling > 0 else self.config.crop)
        loss = self._loss(x, quality)
        torch.autograd.backward(loss)
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        if norm.isfinite():  # the same on every process: the gradients are averaged
            self.optimiser.step()
            self._update_average()
        else:
            logger.warning("step %d: gradient is not finite, skipped", self.progress["step"])
        self.optimiser.zero_grad(set_to_none=False)
        self.progress["step"] += 1
        self.progress["pixels"] += x.shape[0] * x.shape[1] * x.shape[2] * self.config.processes
        return float(loss.detach())

    @property
    def before_cooldown(self) -> Path:
        """Where the state before the cool-down is kept, for a longer run to start from."""
        return self.checkpoint.with_suffix(".before-cooldown")

    def _learning_rate(self, cooling: float) -> float:
        warm = min(1.0, (self.progress["step"] + 1) / WARMUP_STEPS)
        return self.config.learning_rate * warm * (1 - math.sqrt(min(1.0, max(0.0, cooling))))

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        source = self._batches.setdefault(size, crops(self.train_pictures, size=size, rng=self.rng))
        count = max(1, self.config.pixels_per_step // size**2)
        x = torch.from_numpy(np.stack([next(source) for _ in range(count)])).float()
        # one quality from each of `count` equal parts of the range, so that every step sees all of it
        quality = (torch.arange(count) + torch.rand(count)) * (63 / count)
        return x, quality

    def _loss(self, x: Tensor, quality: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x_hat, bits = self.model(x, quality, noise=True)
        settings, bpp = self.model.settings, bits / (x.shape[1] * x.shape[2])
        worth = training_distortion(x_hat, x, quality, settings, step=int(self.progress["step"]))
        weighted: Tensor = (worth + bpp) / torch.sqrt(settings.lmbda(quality))
        return weighted.mean()

    def _average_gradients(self) -> None:
        if self.config.processes == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.config.processes
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.rank:
            return
        decay = min(AVERAGE_DECAY, (1 + self.progress["step"]) / (10 + self.progress["step"]))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [p.detach() for p in self.model.parameters()], 1 - decay)

    def averaged_model(self) -> Hyperprior:
        """A copy of the model with the moving average of its weights."""
        model = Hyperprior(self.model.settings)
        model.load_state_dict(self.average)
        return model.eval()

    def save(self, path: Path | None = None) -> None:
        """Writes a checkpoint."""
        save_checkpoint(
            path or self.checkpoint,
            model=self.model,
            average=self.average,
            optimiser=self.optimiser,
            progress=self.progress,
            settings=self.model.settings.model_dump(mode="json"),
        )

    def report(self, loss: float) -> None:
        """Logs the dev figures of the averaged model."""
        points = rate_distortion(self.averaged_model(), self.dev_pictures)
        logger.info(
            "%.1f min, step %d, %.2f GP, training loss %.4f, dev loss %.4f: %s",
            self.progress["seconds"] / 60,
            self.progress["step"],
            self.progress["pixels"] / 1e9,
            loss,
            math.exp(sum(math.log(p.loss) for p in points) / len(points)),
            ", ".join(f"q{p.quality:g} {p.bpp:.3f} bpp {p.psnr_db:.2f} dB {p.ssimulacra2:.1f}" for p in points),
        )


def _optimiser(model: Hyperprior, rate: float) -> torch.optim.AdamW:
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(_relative_rate(name, parameter), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
        lr=rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )


def _relative_rate(name: str, parameter: torch.nn.Parameter) -> float:
    for start, factor in RELATIVE_RATES.items():
        if name.startswith(start):
            return factor
    matrix = name.endswith(".weight") and parameter.ndim == 2
    return FAN_IN / parameter.shape[1] if matrix and name.startswith(("g_a.", "g_s.")) else 1.0


def bf16_is_faster(seconds: float = 1.0) -> bool:
    """Measures one typical matrix product in both formats: CPUs with AMX or AVX512-BF16 win with bf16, others lose."""

    def rate(dtype: torch.dtype) -> float:
        a, b = torch.randn(2048, 96, dtype=dtype), torch.randn(192, 96, dtype=dtype)
        count, end = 0, time.monotonic() + seconds / 2
        while time.monotonic() < end:
            torch.nn.functional.linear(a, b)
            count += 1
        return count / seconds

    return rate(torch.bfloat16) > 1.3 * rate(torch.float32)
