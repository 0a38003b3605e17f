"""The training loop: it learns, stops and goes on, and a kill costs little."""

import logging
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cnnbatch.codec.hyperprior.model import Hyperprior
from cnnbatch.training.checkpoint import averaged_model, load_checkpoint, read_settings
from cnnbatch.training.evaluation import rate_distortion
from cnnbatch.training.run import LocalRun
from cnnbatch.training.trainer import Trainer, TrainingConfig
from tests.codec.models import TINY, klt, picture

PICTURES = ([picture(160, 200, seed=n) for n in range(6)], [picture(128, 192, seed=9)])
SHORT = TrainingConfig(minutes=5 / 60, crop=64, cooldown_crop=64, pixels_per_step=4 * 64**2, bf16=False)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_klt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second, so it is computed once."""
    monkeypatch.setattr("cnnbatch.training.trainer.block_klt", lambda _, components, prefilter: klt(components))


def loss(model: Hyperprior) -> float:
    return math.exp(np.mean([math.log(p.loss) for p in rate_distortion(model, PICTURES[1])]))


def states(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Everything a checkpoint must hold, by name."""
    parameters = dict(trainer.model.named_parameters())
    learned = {name: p for name, p in parameters.items() if p.requires_grad}
    moments = [{n: trainer.optimiser.state[p][k] for n, p in learned.items()} for k in ("exp_avg", "exp_avg_sq", "step")]
    return [{n: p.detach() for n, p in parameters.items()}, trainer.average, *moments]


def test_five_seconds_lower_the_loss_and_a_checkpoint_resumes_to_the_same_state(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.ckpt"
    trainer = Trainer(SHORT, TINY, PICTURES, LocalRun(checkpoint))
    before = loss(trainer.averaged_model())
    trainer.run()
    assert loss(trainer.averaged_model()) < 0.97 * before
    resumed = Trainer(SHORT, TINY, PICTURES, LocalRun(checkpoint))
    assert resumed.progress == trainer.progress
    for found, expected in zip(states(resumed), states(trainer), strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (tmp_path / "run.before-cooldown").exists()
    assert_a_finished_run_may_be_resumed(resumed)


def assert_a_finished_run_may_be_resumed(trainer: Trainer) -> None:
    steps, reports = trainer.progress["step"], []
    trainer.run(lambda model, progress: reports.append(progress["step"]))
    assert (trainer.progress["step"], reports) == (steps, [steps])


def test_without_pictures_put_aside_reports_are_about_those_trained_on(tmp_path: Path) -> None:
    trainer = Trainer(SHORT, TINY, (PICTURES[0][:1], []), LocalRun(tmp_path / "run.ckpt"))
    assert trainer.dev_pictures == trainer.train_pictures


def test_a_resumed_run_takes_its_settings_from_the_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(SHORT, TINY, PICTURES, LocalRun(tmp_path / "run.ckpt"))
    trainer._step()
    trainer.save()
    other = TINY.model_copy(update={"width_8": 24})
    assert Trainer(SHORT, other, PICTURES, LocalRun(tmp_path / "run.ckpt")).model.settings == TINY


SCRIPT = """
import sys
from pathlib import Path
from cnnbatch.training.run import LocalRun
from cnnbatch.training.trainer import Trainer
from tests.training.test_training_trainer import PICTURES, SHORT, TINY
config = SHORT.model_copy(update={"minutes": 5.0, "checkpoint_minutes": 1e-9})
Trainer(config, TINY, PICTURES, LocalRun(Path(sys.argv[1]))).run()
"""


def test_a_killed_run_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    """It writes one after every step here, so most kills hit it while writing."""
    checkpoint = tmp_path / "run.ckpt"
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(checkpoint)], cwd=ROOT) as process:
        wait_for(checkpoint)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert read_settings(checkpoint) == TINY.model_dump(mode="json")
    assert averaged_model(checkpoint).settings == TINY
    assert Trainer(SHORT, TINY, PICTURES, LocalRun(checkpoint)).progress["step"] >= 1


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, "no checkpoint after two minutes"
        time.sleep(0.02)


def test_a_step_whose_gradient_is_not_finite_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(SHORT, TINY, PICTURES, LocalRun(tmp_path / "run.ckpt"))
    trainer._step()
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer._loss = lambda x, quality, **_: sum(p.sum() for p in trainer.model.parameters()) * math.nan  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        trainer._step()
    assert "not finite" in caplog.text
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        trainer = Trainer(SHORT, TINY, PICTURES, LocalRun(tmp_path / name))
        trainer._step()
        trainer._step()
        weights.append(trainer.model.g_a.bypass.weight.detach())
    assert torch.equal(*weights)


def test_all_processes_begin_with_the_same_weights_and_see_other_pictures(tmp_path: Path) -> None:
    first, second = (Trainer(SHORT, TINY, PICTURES, LocalRun(tmp_path / "run.ckpt", rank=rank)) for rank in (0, 1))
    pairs = zip(first.model.named_parameters(), second.model.parameters(), strict=True)
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []
    assert not torch.equal(first._batch(64)[0], second._batch(64)[0])


def test_a_checkpoint_of_a_smaller_model_keeps_what_is_new(tmp_path: Path) -> None:
    """A parameter the checkpoint lacks keeps its initial value."""
    path, name = tmp_path / "run.ckpt", "g_s.blocks_8.0.expand.weight"
    trainer = Trainer(SHORT, TINY, PICTURES, LocalRun(path))
    trainer._step()
    trainer.save()
    with safe_open(path, framework="pt") as file:
        metadata, kept = file.metadata(), {key: file.get_tensor(key) for key in file.keys() if not key.endswith(name)}  # noqa: SIM118
    save_file(kept, path, metadata=metadata)
    other = Trainer(SHORT.model_copy(update={"seed": 1}), TINY, PICTURES, LocalRun(tmp_path / "new.ckpt"))
    new = other.model.get_parameter(name).detach().clone()
    load_checkpoint(path, model=other.model, average=other.average, optimiser=other.optimiser)
    assert torch.equal(other.model.get_parameter(name), new)
    assert torch.equal(other.model.g_a.enter.weight, trainer.model.g_a.enter.weight)
