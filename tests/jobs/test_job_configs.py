"""The configuration files that come with the jobs say what holds without them."""

from importlib.resources import files

import pytest
from pydantic import BaseModel

from cnnbatch.codec import Codec
from jobs.settings import ClassifyConfig, CompressConfig, EvaluateConfig, ReconstructConfig, TrainConfig, resolve

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


def test_the_recipe_for_training_is_that_of_the_shipped_codec() -> None:
    path = str(files("jobs") / "configs" / "train.yaml")
    recipe = resolve(TrainConfig, file=path, flags={"source": "a", "codec_file": "/b"}, words=())
    assert recipe.model == Codec.load(device="cpu").file.settings
    defaults = TrainConfig.model_validate({"source": "a", "codec_file": "/b"})
    assert recipe.training == defaults.training
