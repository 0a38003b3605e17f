"""The configuration files that come with the jobs say what holds without them."""

from importlib.resources import files

import pytest
from pydantic import BaseModel

from cnnbatch.codec import SHIPPED, Codec
from jobs.configuration import resolve
from jobs.settings import ClassifyConfig, CompressConfig, EvaluateConfig, ReconstructConfig, TrainConfig

CASES = [
    ("classify.yaml", ClassifyConfig, {"archive": "a", "head": "b"}),
    ("compress.yaml", CompressConfig, {"source": "a", "archive": "b"}),
    ("evaluate.yaml", EvaluateConfig, {"source": "a"}),
    ("reconstruct.yaml", ReconstructConfig, {"archive": "a", "destination": "b"}),
]


@pytest.mark.parametrize(("name", "model", "flags"), CASES, ids=[name for name, _, _ in CASES])
def test_the_files_hold_the_defaults(name: str, model: type[BaseModel], flags: dict[str, str]) -> None:
    path = str(files("jobs") / "configs" / name)
    assert resolve(model, file=path, flags=flags, words=()) == model.model_validate(flags)


@pytest.mark.parametrize(
    ("name", "file"), [*zip(SHIPPED, ["train_eye.yaml", "train.yaml", "train_psnr_large.yaml"], strict=True)]
)
def test_the_recipes_for_training_are_those_of_the_shipped_codecs(name: str, file: str) -> None:
    path = str(files("jobs") / "configs" / file)
    recipe = resolve(TrainConfig, file=path, flags={"source": "a", "codec_file": "/b"}, words=())
    assert recipe.model == Codec.load(name, device="cpu").file.settings


def test_the_first_recipe_holds_the_defaults_of_a_run() -> None:
    path = str(files("jobs") / "configs" / "train.yaml")
    recipe = resolve(TrainConfig, file=path, flags={"source": "a", "codec_file": "/b"}, words=())
    defaults = TrainConfig.model_validate({"source": "a", "codec_file": "/b"})
    assert recipe.training == defaults.training


def test_one_setting_of_workers_leaves_the_others_as_they_are() -> None:
    train = resolve(TrainConfig, file=None, flags={"source": "a", "codec_file": "/b", "workers.most": 2}, words=())
    assert (train.workers.most, train.workers.cpus) == (2, 1)
    evaluate = resolve(EvaluateConfig, file=None, flags={"source": "a"}, words=("workers.most=2",))
    assert (evaluate.workers.most, evaluate.workers.cpus) == (2, 1)
