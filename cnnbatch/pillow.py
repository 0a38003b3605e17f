"""``.cnb`` files for Pillow: with ``import cnnbatch.pillow``, ``Image.open("a.cnb")`` opens them, and decodes pixels when used.

The codec is one that comes with the package; a file of another codec cannot be decoded here (`cnnbatch decode --codec`).
"""

from typing import Any, cast

from PIL import Image, ImageFile

from cnnbatch.archive.single import MAGIC, parse_cnb
from cnnbatch.errors import CnnbatchError
from cnnbatch.picture import CodecFiles, Picture

FORMAT = "CNB"
_MODES = {2: "L", 3: "RGB"}


class CnbImageFile(ImageFile.ImageFile):
    """A picture of a ``.cnb`` file."""

    format = FORMAT
    format_description = "cnnbatch picture"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            row = parse_cnb(self.fp.read())
        except CnnbatchError as error:
            raise SyntaxError(str(error)) from error
        if row.width is None or row.height is None:
            raise SyntaxError("a file that is no picture")
        self._picture = Picture(row, CodecFiles())
        self._size = (row.width, row.height)
        gray = (row.mode or "RGB").split()[0] in {"1", "L", "LA"}
        self._mode = "L" if gray else "RGB"
        self.info |= {name: value for name, value in (("exif", row.exif), ("icc_profile", row.icc)) if value is not None}
        self.tile = []

    def load(self) -> Any:
        """Decodes the picture, once. Raises OSError where it is damaged."""
        if self._picture is not None:
            try:
                image = Image.fromarray(cast(Any, self._picture.image()))
            except CnnbatchError as error:
                raise OSError(str(error)) from error
            self.im, self._mode, self._picture = image.im, image.mode, cast(Any, None)
        return super().load()


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def register() -> None:
    """Tells Pillow of the format; importing this module does."""
    Image.register_open(FORMAT, CnbImageFile, _accept)
    Image.register_extension(FORMAT, ".cnb")


register()
