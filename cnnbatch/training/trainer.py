"""The training loop of the hyperprior: warm-up, constant learning rate, cool-down; resumable at every checkpoint.

loss = Σ over images of λ^-½ · (distortion + bpp), the distortion that of the codec's objective (λ·MSE for PSNR), quality drawn
per image, symbols as an encoder chooses them, with straight-through gradients. Several processes average their gradients
(`DistributedDataParallel`); on small CPUs such of one thread each do better than OpenMP threads.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.codec.hyperprior.settings import HyperpriorSettings
from cnnbatch.codec.runtime.process import dedicate_process
from cnnbatch.training.averaging import Averaging
from cnnbatch.training.checkpoint import Progress, read_settings
from cnnbatch.training.data import Pixels, crops
from cnnbatch.training.evaluation import rate_distortion
from cnnbatch.training.klt import block_klt
from cnnbatch.training.objective import training_distortion
from cnnbatch.training.run import Run

logger = logging.getLogger(__name__)

WARMUP_STEPS = 300
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

TELL_SECONDS = 5.0
"""Between two figures of a run's progress."""

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
    memory_bytes: int = Field(2 << 30, gt=0)
    """Decoded pictures that a process holds; where there are more, windows of them come and go."""
    learning_rate: float = 4e-3
    seed: int = 0
    bf16: bool | None = None
    """None: on a GPU that has it, and on a CPU if it is measured to be faster."""
    fitted_to: int | None = Field(None, gt=0)
    """Pictures that the scales, filters and tables of the codec file are fitted to at the end; None: as many as each needs."""
    checkpoint_minutes: float = 3.0
    report_minutes: float = 6.0


def _nobody(_: int) -> None:
    """Hears how many crops were drawn where all pictures are at hand."""


class Trainer(Averaging[Hyperprior]):
    """State of one process of a run; that of rank 0 writes checkpoints and reports."""

    def __init__(
        self,
        config: TrainingConfig,
        settings: HyperpriorSettings,
        pictures: tuple[list[Pixels], list[Pixels]],
        run: Run,
        drawn: Callable[[int], None] = _nobody,
    ) -> None:
        """Goes on from the state of ``run``, which has settings of its own; where there is none the KLT is the start.

        ``drawn`` hears how many crops were drawn of the pictures, which it may then renew.
        """
        self.config, self.device, self._drawn = config, run.device, drawn
        self.train_pictures, self.held_out = pictures
        self.dev_pictures = self.held_out or self.train_pictures
        torch.set_flush_denormal(True)  # zero-initialised layers fill gradients with denormals: five times slower
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # integer layers compute in float32
        dedicate_process()
        torch.manual_seed(config.seed)  # all processes begin with the same weights
        with run.state() as state:
            if state is not None:
                settings = HyperpriorSettings.model_validate(read_settings(state))
            model = Hyperprior(settings)
            if state is None:
                klt = block_klt(self.train_pictures, settings.latent_channels, prefilter=model.g_a.prefilter)
                model.initialise_from_klt(*klt)
            model.to(self.device)
            super().__init__(model, _optimiser(model, config.learning_rate), run, state)
        torch.manual_seed(config.seed + run.rank)
        self.bf16 = config.bf16 if config.bf16 is not None else bf16_pays(self.device)
        self.rng = np.random.default_rng([config.seed, run.rank, int(self.progress["step"])])
        self._batches: dict[int, Iterator[Pixels]] = {}
        self._forward = _averaging(self.model, self.device) if run.world_size > 1 else self.model

    def run(self, on_end: Callable[[Hyperprior, Progress], None] | None = None) -> None:
        """Trains until ``minutes`` have passed; ``on_end`` gets the averaged model, in the process of rank 0."""
        begun = time.monotonic() - self.progress["seconds"]
        last_save = last_report = last_told = self.progress["seconds"]
        loss = math.nan  # stays so when the run had already ended
        losses: list[float] = []
        while self.progress["seconds"] < 60 * self.config.minutes:
            loss = self._step()
            losses.append(loss)
            seconds = self.progress["seconds"] = self._agreed(time.monotonic() - begun)
            if seconds - last_told > TELL_SECONDS or self.progress["step"] == 1:
                last_told = seconds
                self._tell(losses)
                losses.clear()
            if seconds - last_save > 60 * self.config.checkpoint_minutes:
                last_save = seconds
                self.save()
            if seconds - last_report > 60 * self.config.report_minutes:
                last_report = seconds
                self.report(loss)
        self._tell(losses)
        self.save()
        self.report(loss)
        if on_end and not self.surroundings.rank:
            on_end(self.averaged_model(), self.progress)

    def _agreed(self, seconds: float) -> float:
        """All processes must see the same clock, or they would stop at different steps."""
        if self.surroundings.world_size == 1:
            return seconds
        shared = torch.tensor([seconds], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def _tell(self, losses: Sequence[float]) -> None:
        if losses and not self.surroundings.rank:
            loss = math.fsum(losses) / len(losses)
            self.surroundings.tell({**self.progress, "loss": loss, "of_seconds": 60 * self.config.minutes})

    def _step(self) -> float:
        share = self.progress["seconds"] / (60 * self.config.minutes)
        cooling = (share - (1 - self.config.cooldown_share)) / max(self.config.cooldown_share, 1e-9)
        rate = self._learning_rate(cooling)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        if cooling > 0 and not self.progress.get("cooling"):
            self.surroundings.keep_beside(self._write)
            self.progress["cooling"] = 1
        x, quality = self._batch(self.config.cooldown_crop if cooling > 0 else self.config.crop)
        loss = self._loss(x, quality)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        if norm.isfinite():  # the same on every process: the gradients are averaged
            self.optimiser.step()
            self._update_average()
        else:
            logger.warning("step %d: gradient is not finite, skipped", self.progress["step"])
        self.optimiser.zero_grad(set_to_none=False)
        self.progress["step"] += 1
        self.progress["pixels"] += x.shape[0] * x.shape[1] * x.shape[2] * self.surroundings.world_size
        return float(loss.detach())

    def _learning_rate(self, cooling: float) -> float:
        warm = min(1.0, (self.progress["step"] + 1) / WARMUP_STEPS)
        return self.config.learning_rate * warm * (1 - math.sqrt(min(1.0, max(0.0, cooling))))

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        source = self._batches.setdefault(size, crops(self.train_pictures, size=size, rng=self.rng))
        count = max(1, self.config.pixels_per_step // size**2)
        x = torch.from_numpy(np.stack([next(source) for _ in range(count)])).float()
        self._drawn(count)
        # one quality from each of `count` equal parts of the range, so that every step sees all of it
        quality = (torch.arange(count) + torch.rand(count)) * (63 / count)
        return x.to(self.device), quality.to(self.device)

    def _loss(self, x: Tensor, quality: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x_hat, bits = self._forward(x, quality, noise=True)
        settings, bpp = self.model.settings, bits / (x.shape[1] * x.shape[2])
        worth = training_distortion(x_hat, x, quality, settings, step=int(self.progress["step"]))
        weighted: Tensor = (worth + bpp) / torch.sqrt(settings.lmbda(quality))
        return weighted.mean()

    def report(self, loss: float) -> None:
        """Says the dev figures of the averaged model; in the process of rank 0."""
        if self.surroundings.rank:
            return
        points = rate_distortion(self.averaged_model(), self.dev_pictures)
        dev = math.exp(sum(math.log(p.loss) for p in points) / len(points))
        figures = ", ".join(f"q{p.quality:g} {p.bpp:.3f} bpp {p.psnr_db:.2f} dB {p.ssimulacra2:.1f}" for p in points)
        minutes, step, pixels = self.progress["seconds"] / 60, self.progress["step"], self.progress["pixels"] / 1e9
        self.surroundings.say(
            f"{minutes:.1f} min, step {step:.0f}, {pixels:.2f} GP, training loss {loss:.4f}, dev loss {dev:.4f}: {figures}"
        )


def _averaging(model: Hyperprior, device: torch.device) -> nn.Module:
    """The same module; its gradients are the means over all processes."""
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)


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


def bf16_pays(device: torch.device) -> bool:
    """Whether to compute in bfloat16 on ``device`` where float32 is not needed."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else bf16_is_faster()


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
