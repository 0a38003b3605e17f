"""Training of the dense architecture: the context model on a frozen PCA first, then everything together.

loss = mean over pictures of λ^-½ · (λ·MSE + bits a sample) + label weight · cross-entropy of the head on the dequantised
latents, quality drawn anew for each picture. The averaged weights are what is exported, as in `cnnbatch.training.trainer`.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbatch.codec import Codec
from cnnbatch.codec.codec_file import dump_codec
from cnnbatch.codec.dense.model import Dense
from cnnbatch.codec.dense.settings import DenseLayers, DenseSettings
from cnnbatch.codec.entropy_coding.likelihood import gaussian_bits, noisy
from cnnbatch.metrics import psnr_db
from cnnbatch.training.averaging import Averaging
from cnnbatch.training.checkpoint import Progress, read_settings
from cnnbatch.training.dense_data import SmallPictures, pca, varied
from cnnbatch.training.run import Run
from cnnbatch.training.trainer import TELL_SECONDS, bf16_pays

WARMUP_STEPS = 100
GRADIENT_NORM = 40.0
"""About the size of a usual step's, as the loss is in units of λ^-½: clips spikes."""

RELATIVE_RATES = {"g_a.bypass.": 0.05, "g_s.bypass.": 0.05, "context.enter_": 3.0, "context.mean_": 3.0, "context.scale_": 3.0}
"""Learning rate relative to the others, by the beginning of a name; curves over quality (``_gain.anchors``) have 3, too."""

DEV_QUALITIES = (20.0, 32.0, 44.0)
DEV_PICTURES = 1000


class DenseTraining(BaseModel):
    """One training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(10.0, gt=0)
    """Wall-clock time of the run, all resumes together; unless ``steps`` says how long."""
    steps: int | None = Field(None, gt=0)
    """Steps after those of ``context_steps``: the same run whatever else the machine does."""
    context_steps: int = Field(400, ge=0)
    """First of all, on the context model alone: a tenth of the time of a whole step each."""
    batch: int = Field(128, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    cooldown_share: float = Field(0.5, ge=0, le=1)
    label_weight: float = Field(10.0, ge=0)
    """Weight of the cross-entropy in nats; only where there are labels."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    shift: int = Field(0, ge=0, le=8)
    """Pictures are moved by up to so many pixels in each direction, what comes in repeating the edge."""
    mirror: bool = False
    """Half of the pictures are mirrored left to right: good for things, wrong for characters."""
    seed: int = 0
    bf16: bool | None = None
    """None: on a GPU that has it, and on a CPU if it is measured to be faster."""
    threads: int = Field(2, gt=0)
    checkpoint_minutes: float = Field(2.0, gt=0)
    report_minutes: float = Field(2.0, gt=0)


class DenseTrainer(Averaging[Dense]):
    """State of a run."""

    def __init__(
        self,
        config: DenseTraining,
        layers: DenseLayers,
        pictures: SmallPictures,
        run: Run,
    ) -> None:
        """Goes on from the state of ``run``, which has settings of its own; where there is none PCA is the start."""
        self.config, self.device = config, run.device
        self.train, self.dev = pictures.split()
        torch.set_flush_denormal(True)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        with run.state() as state:
            model = self._model(layers, state).to(self.device)
            super().__init__(model, _optimiser(model, config.learning_rate), run, state)
        self.bf16 = config.bf16 if config.bf16 is not None else bf16_pays(self.device)
        self.rng = np.random.default_rng([config.seed, int(self.progress["step"])])

    def _model(self, layers: DenseLayers, state: Path | None) -> Dense:
        if state is not None:
            return Dense(DenseSettings.model_validate(read_settings(state)))
        _, height, width, channels = self.train.pixels.shape
        sizes = {"height": height, "width": width, "channels": channels, "classes": self.train.classes}
        model = Dense(DenseSettings(**layers.model_dump(), **sizes))
        model.initialise_from_pca(*pca(self.train.pixels, layers.latents, seed=self.config.seed))
        self._train_context(model)
        return model

    def _train_context(self, model: Dense) -> None:
        """The context model alone, on the latents of the PCA."""
        optimiser = torch.optim.Adam(model.context.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.99))
        rng = np.random.default_rng(self.config.seed)
        for step in range(self.config.context_steps):
            x, quality, _ = self._drawn(rng)
            delta = model.settings.step(quality)
            with torch.no_grad():
                y = model.g_a.bypass(x.flatten(1)) / delta[:, None]
            means, scales = model.context(y + torch.rand_like(y) - 0.5, delta, quality)
            bits = gaussian_bits(noisy(y - means), scales)
            loss = (bits / model.settings.pixels / torch.sqrt(model.settings.lmbda(quality))).mean()
            optimiser.param_groups[0]["lr"] = self.config.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def run(self, on_end: Callable[[Dense, Progress], None] | None = None) -> None:
        """Trains to the end; ``on_end`` gets the averaged model."""
        last_save = last_report = last_told = start = time.monotonic() - self.progress["seconds"]
        loss = math.nan  # stays so when the run had already ended
        losses: list[float] = []
        while self._share_done() < 1:
            loss = self._step()
            losses.append(loss)
            now = time.monotonic()
            self.progress["seconds"] = now - start
            if now - last_told > TELL_SECONDS:
                last_told = now
                self._tell(losses)
                losses.clear()
            if now - last_save > 60 * self.config.checkpoint_minutes:
                last_save = now
                self.save()
            if now - last_report > 60 * self.config.report_minutes:
                last_report = now
                self.report(loss)
        self._tell(losses)
        self.save()
        self.report(loss)
        if on_end:
            on_end(self.averaged_model(), self.progress)

    def _tell(self, losses: Sequence[float]) -> None:
        if not losses:
            return
        loss = math.fsum(losses) / len(losses)
        share = self._share_done()
        expected = self.progress["seconds"] / share if share else 60 * self.config.minutes
        self.surroundings.tell({**self.progress, "loss": loss, "of_seconds": expected})

    def _share_done(self) -> float:
        if self.config.steps is not None:
            return self.progress["step"] / self.config.steps
        return self.progress["seconds"] / (60 * self.config.minutes)

    def _step(self) -> float:
        cooling = max(0.0, self._share_done() - 1 + self.config.cooldown_share) / max(self.config.cooldown_share, 1e-9)
        warm = min(1.0, (self.progress["step"] + 1) / WARMUP_STEPS)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * group["factor"] * warm * (1 - math.sqrt(min(1.0, cooling)))
        x, quality, labels = self._batch(self.rng)
        loss = self._loss(x, quality, labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.progress["step"] += 1
        self.progress["pixels"] += x[..., 0].numel()
        self._update_average()
        return float(loss.detach())

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x, quality, labels = self._drawn(rng)
        return x.to(self.device), quality.to(self.device), labels.to(self.device)

    def _drawn(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(pictures [N, H, W, C] in 0…255, one quality from each of N equal parts of the range, labels [N])."""
        count = self.config.batch
        chosen = rng.integers(0, len(self.train.pixels), count)
        x = torch.from_numpy(varied(self.train.pixels[chosen], rng, shift=self.config.shift, mirror=self.config.mirror)).float()
        quality = torch.from_numpy((np.arange(count) + rng.random(count)) * (63 / count)).float()
        return x, quality, torch.from_numpy(self.train.labels[chosen])

    def _loss(self, x: Tensor, quality: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x_hat, bits, features = self.model(x, quality)
        lmbda = self.model.settings.lmbda(quality)
        mse = (x_hat - x).square().flatten(1).mean(1)
        loss: Tensor = ((lmbda * mse + bits / self.model.settings.pixels) / torch.sqrt(lmbda)).mean()
        known = labels >= 0
        if self.model.head is not None and self.config.label_weight and bool(known.any()):
            logits = self.model.head(features[known])
            loss = loss + self.config.label_weight * F.cross_entropy(
                logits, labels[known], label_smoothing=self.config.label_smoothing
            )
        return loss

    def report(self, loss: float) -> None:
        """Logs what the averaged model makes of dev pictures, as a codec file: real bytes."""
        found = ", ".join(measure(self.averaged_model(), self.dev, quality) for quality in DEV_QUALITIES)
        seconds, step = self.progress["seconds"], self.progress["step"]
        self.surroundings.say(f"{seconds / 60:.1f} min, step {step:.0f}, training loss {loss:.3f}: {found}")


def measure(model: Dense, pictures: SmallPictures, quality: float) -> str:
    """Mean bytes and dB of up to `DEV_PICTURES` pictures, and with a head how many labels it finds."""
    codec = Codec(dump_codec(model, training={}), device="cpu")
    chosen = slice(0, DEV_PICTURES)
    pixels, labels = pictures.pixels[chosen], pictures.labels[chosen]
    images = list(pixels[..., 0] if pixels.shape[3] == 1 else pixels)
    bitstreams = codec.compress(images, quality)
    decoded = codec.reconstruct(bitstreams)
    psnr = np.mean([psnr_db(image, out) for image, out in zip(images, decoded, strict=True)])
    text = f"q{quality:g} {np.mean([len(data) for data in bitstreams]):.1f} bytes {psnr:.2f} dB"
    if model.head is None or not (labels >= 0).any():
        return text
    with torch.inference_mode():
        guesses = model.head(torch.from_numpy(codec.features(bitstreams))).argmax(1).numpy()
    return f"{text} {100 * np.mean(guesses[labels >= 0] == labels[labels >= 0]):.1f} % recognised"


def _optimiser(model: Dense, rate: float) -> torch.optim.AdamW:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for start, f in RELATIVE_RATES.items() if name.startswith(start)), 1.0)
        groups.setdefault(3.0 if name.endswith("_gain.anchors") else factor, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
        lr=rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=True,
    )
