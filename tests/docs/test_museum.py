"""The example of a museum, run as its reader runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "docs/examples/museum.sh"


def make_masters(folder: Path) -> None:
    folder.mkdir()
    photograph = np.ascontiguousarray(skimage.data.astronaut()[:160, :224])
    Image.fromarray(photograph).save(folder / "portrait.png")
    Image.fromarray(photograph[::-1]).save(folder / "print.jpg", quality=95)
    Image.fromarray(photograph).convert("CMYK").save(folder / "press.tif")
    Image.fromarray(photograph[..., 0].astype(np.uint16) * 251).save(folder / "deep.tif")
    pages = [Image.fromarray(photograph[..., n]) for n in range(3)]
    pages[0].save(folder / "letter.tif", save_all=True, append_images=pages[1:])
    (folder / "catalogue.pdf").write_bytes(b"%PDF-1.4\n" + b"0 0 0 rg\n" * 500)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_file_of_a_museum_comes_back(tmp_path: Path) -> None:
    make_masters(tmp_path / "masters")
    (tmp_path / "check").mkdir()
    places = [str(tmp_path / name) for name in ("masters", "archive", "check")]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["sh", str(SCRIPT), *places], capture_output=True, text=True, env=environment, timeout=800, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "6 inputs, 6 unchanged" in ended.stdout
    kept = (tmp_path / "check" / "kept").read_text().split()
    assert {"press.tif", "deep.tif", "letter.tif", "catalogue.pdf"} <= set(kept)
    assert f"{len(kept)} files came back byte for byte" in ended.stdout
    assert {path.name for path in (tmp_path / "check" / "back").iterdir()} == {p.name for p in (tmp_path / "masters").iterdir()}
