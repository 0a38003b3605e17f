"""Imports go downwards only, as ``docs/architecture.md`` draws it, and the errors are the tree that they document."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnbatch import errors

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("cnnbatch/**/*.py"), *ROOT.glob("jobs/**/*.py")])
EVERYWHERE = {"cnnbatch.version"}
# Each layer may import itself, those in its set, and `EVERYWHERE`.
FLOOR = {
    "cnnbatch.errors",
    "cnnbatch.lazy",
    "cnnbatch.leb128",
    "cnnbatch.parallel",
    "cnnbatch.processes",
    "cnnbatch.spill",
    "cnnbatch.text",
}
EYE = {"cnnbatch.butteraugli", "cnnbatch.ssimulacra2"}
BASE = {"cnnbatch.storage", "cnnbatch.metrics", *EYE, *FLOOR}
MIDDLE = {"cnnbatch.codec", "cnnbatch.containers", "cnnbatch.archive", "cnnbatch.images", "cnnbatch.training", *BASE}
READING = {"cnnbatch.stages", "cnnbatch.choices", *MIDDLE}
LIBRARY = {
    "cnnbatch",
    "cnnbatch.writing",
    "cnnbatch.picture",
    "cnnbatch.ahead",
    "cnnbatch.compiled_code",
    "cnnbatch.reading",
    "cnnbatch.signals",
    *READING,
}
BELOW = {
    "cnnbatch.errors": set(),
    "cnnbatch.version": set(),
    "cnnbatch.signals": set(),
    "cnnbatch.compiled_code": set(),
    "cnnbatch.text": set(),
    "cnnbatch.lazy": set(),
    "cnnbatch.leb128": set(),
    "cnnbatch.choices": set(),
    "cnnbatch.job_options": {"cnnbatch.choices"},
    "cnnbatch.command_options": {"cnnbatch.choices", "cnnbatch.job_options"},
    "cnnbatch.parallel": set(),
    "cnnbatch.processes": {"cnnbatch.errors"},
    "cnnbatch.spill": {"cnnbatch.errors"},
    "cnnbatch.storage": FLOOR,
    "cnnbatch.metrics": FLOOR,
    "cnnbatch.planes": set(),
    "cnnbatch.butteraugli": {"cnnbatch.planes"},
    "cnnbatch.ssimulacra2": {"cnnbatch.planes"},
    "cnnbatch.weights": set(),
    "cnnbatch.codec": {"cnnbatch.metrics", "cnnbatch.ssimulacra2", *FLOOR},
    "cnnbatch.archive": {"cnnbatch.storage", *FLOOR},
    "cnnbatch.images": {"cnnbatch.choices", *FLOOR},
    "cnnbatch.configuration": {"cnnbatch.storage", *FLOOR},
    "cnnbatch.containers": {"cnnbatch.archive", "cnnbatch.configuration", "cnnbatch.storage", *FLOOR},
    "cnnbatch.training": {"cnnbatch.codec", "cnnbatch.images", *BASE},  # beside stages
    "cnnbatch.stages": {"cnnbatch.choices", *MIDDLE} - {"cnnbatch.training"},
    "cnnbatch.classification": {"cnnbatch.stages", "cnnbatch.codec", "cnnbatch.archive", *BASE},
    "cnnbatch.evaluation": MIDDLE - {"cnnbatch.training", "cnnbatch.archive"},  # beside stages
    "cnnbatch.picture": READING,
    "cnnbatch.ahead": {"cnnbatch.picture", *READING},
    "cnnbatch.reading": {"cnnbatch.ahead", "cnnbatch.picture", *READING},
    "cnnbatch.writing": READING,
    "cnnbatch.data": {"cnnbatch.reading", "cnnbatch.picture", *READING},
    "cnnbatch.pillow": {"cnnbatch.picture", *READING},
    "cnnbatch": LIBRARY,  # what ``import cnnbatch`` offers
    "cnnbatch.commands": LIBRARY,
    "cnnbatch.serve": LIBRARY,
    "cnnbatch.__main__": {"cnnbatch.cli"},
    "cnnbatch.cli": {"cnnbatch.command_options", "cnnbatch.job_options", "cnnbatch.commands", "cnnbatch.serve", *LIBRARY},
    "cnnbatch.warm": {"cnnbatch.cli", *FLOOR},
    "jobs": {
        "cnnbatch.configuration",
        "cnnbatch.job_options",
        "cnnbatch.classification",
        "cnnbatch.evaluation",
        "cnnbatch.data",
        *LIBRARY,
    },
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    parts = module.split(".")
    return "jobs" if parts[0] == "jobs" else ".".join(parts[:2])


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in submodules if is_module(name)]
            yield from modules if len(modules) == len(submodules) else [str(node.module), *modules]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_downwards_only(path: Path) -> None:
    layer = layer_of(module_of(path))
    ours = {layer_of(name) for name in imports_of(path) if name.split(".")[0] in {"cnnbatch", "jobs"}}
    assert ours - {layer} - EVERYWHERE <= BELOW[layer]


CODEC = "cnnbatch.codec"
ROOMS = {
    # parts of the codec, each with those that it may import beside itself, the errors and `geometry`
    "geometry": set(),
    "runtime": set(),
    "entropy_coding": set(),
    "container": set(),
    "adaptive_filter": {"entropy_coding"},
    "transforms": {"runtime", "adaptive_filter"},
    "quantisation": {"entropy_coding"},
    "interface": {"container"},
    "hyperprior": {"interface", "container", "transforms", "quantisation", "adaptive_filter", "entropy_coding", "runtime"},
    "dense": {"interface", "container", "transforms", "entropy_coding", "runtime"},
    "codec_file": {"interface", "container", "hyperprior", "dense"},
    "codec": {"interface", "codec_file"},
    "__init__": {"codec"},
}


def room_of(module: str) -> str:
    parts = module.removeprefix(CODEC).split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", [path for path in FILES if (ROOT / "cnnbatch" / "codec") in path.parents], ids=module_of)
def test_inside_the_codec_too(path: Path) -> None:
    room = room_of(module_of(path))
    theirs = {room_of(name) for name in imports_of(path) if name.startswith(CODEC)}
    assert theirs - {room, "geometry"} <= ROOMS[room]


def test_no_two_parts_of_the_codec_import_each_other() -> None:
    below: dict[str, set[str]] = {}
    for room, others in ROOMS.items():  # each after those that it imports
        assert others <= below.keys(), room
        below[room] = others


ENCODER_ONLY = {
    f"{CODEC}.{name}"
    for name in (
        "adaptive_filter.estimation",
        "hyperprior.analysis",
        "hyperprior.distortion",
        "hyperprior.encoder",
        "hyperprior.filter_estimation",
        "hyperprior.folded_analysis",
        "hyperprior.latent_encoder",
        "hyperprior.model",
        "hyperprior.rate",
        "hyperprior.refinement",
        "quantisation.prices",
        "quantisation.quantised",
        "quantisation.rdoq",
        "quantisation.trellis_search",
        "quantisation.viterbi",
    )
}
"""What an encoder may do as it likes."""

NORMATIVE = (
    "adaptive_filter.filtering",
    "adaptive_filter.kernels",
    "container.bitstream",
    "entropy_coding.rans",
    "hyperprior.decoder",
    "quantisation.dependent",
    "quantisation.prediction",
    "quantisation.scan",
)
"""What the format fixes."""


def reached(module: str) -> set[str]:
    """All modules of the codec that importing ``module`` imports, but for the packages themselves."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and (path := ROOT.joinpath(*name.split(".")).with_suffix(".py")).exists():
            found.add(name)
            waiting += [one for one in imports_of(path) if one.startswith(f"{CODEC}.")]
    return found


def test_a_decoder_reaches_all_that_the_format_fixes() -> None:
    needed = {f"{CODEC}.{name}" for name in (*NORMATIVE, "hyperprior.hyper_latents", "hyperprior.synthesis")}
    assert needed <= reached(f"{CODEC}.hyperprior.decoder")
    assert reached(f"{CODEC}.hyperprior.encoder") >= ENCODER_ONLY


@pytest.mark.parametrize("name", NORMATIVE)
def test_what_the_format_fixes_knows_nothing_of_the_encoders_search(name: str) -> None:
    assert not reached(f"{CODEC}.{name}") & ENCODER_ONLY


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("cnnbatch", {"ray"}),
        ("cnnbatch/codec", {"pyarrow", "deltalake", "fsspec", "obstore", "PIL"}),
        ("cnnbatch/archive", {"torch", "PIL", "imagecodecs"}),
        ("cnnbatch/images", {"torch", "pyarrow", "deltalake"}),
        ("cnnbatch/storage", {"torch", "PIL"}),
    ],
)
def test_a_part_knows_nothing_of_what_is_not_its_own(package: str, forbidden: set[str]) -> None:
    for path in set(ROOT.glob(f"{package}/**/*.py")) - {ROOT / "cnnbatch/data/rays.py"}:
        assert not {name.split(".")[0] for name in imports_of(path)} & forbidden, path


def documented_tree() -> dict[str, tuple[str, int]]:
    """name → (parent, exit code) as the docstring draws them; an exit code is inherited where none is drawn."""
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r"    ([│ ]*(?:[├└]── )?)(\w+) +(?:exit code )?(\d)?.*", line)
        if found is None or (found[1] == "" and path):
            continue
        depth, name = len(found[1]) // 4, found[2]
        path[depth:] = [name]
        parent = path[depth - 1] if depth else "Exception"
        tree[name] = (parent, int(found[3]) if found[3] else tree[parent][1])
    return tree


def test_the_errors_are_the_tree_in_their_docstring() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert documented_tree() == {cls.__name__: (cls.__base__.__name__, cls.exit_code) for cls in classes}


@pytest.mark.parametrize("package", ["benchmarks", "cnnbatch", "jobs"])
def test_docstrings_begin_with_a_verb_or_a_noun(package: str) -> None:
    """Not with "What", "Of" or "That", behind which a reader waits for the thing."""
    opening = re.compile(r'"""(What|Of|That|Whatever)\b.*')
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in (ROOT / package).rglob("*.py") for m in opening.finditer(p.read_text())]
    assert not found
