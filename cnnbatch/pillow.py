"""``.cnb`` files for Pillow: with ``import cnnbatch.pillow``, ``Image.open("a.cnb")`` opens them, and decodes pixels when used.

`draft`, and so `thumbnail`, decodes at 1/2 to 1/16 of the sides. The codec is one that comes with the package; a file of
another codec cannot be decoded here (`cnnbatch decode --codec`).
"""

from typing import Any, cast

from PIL import Image, ImageFile

from cnnbatch.archive.single import MAGIC, parse_cnb
from cnnbatch.codec.geometry import reduced_size
from cnnbatch.errors import CnnbatchError
from cnnbatch.picture import CodecFiles, Picture

FORMAT = "CNB"
DIVISORS = (16, 8, 4, 2)


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
            raise SyntaxError("not a picture")
        self._picture = Picture(row, CodecFiles())
        self._divisor = 1
        self._size = (row.width, row.height)
        gray = (row.mode or "RGB").split()[0] in {"1", "L", "LA"}
        self._mode = "L" if gray else "RGB"
        self.info |= {name: value for name, value in (("exif", row.exif), ("icc_profile", row.icc)) if value is not None}
        self.tile = []

    def draft(self, mode: Any, size: tuple[int, int] | None) -> Any:
        """Chooses the smallest size with both sides of ``size``; the mode stays. Returns mode and box, as Pillow has it."""
        if size is None or self._picture is None or self._divisor != 1:
            return None
        width, height = self._size
        wide, high = max(1, size[0]), max(1, size[1])
        self._divisor = next((by for by in DIVISORS if width // by >= wide and height // by >= high), 1)
        if self._divisor == 1:
            return None
        high, wide = reduced_size(height, width, self._divisor)
        self._size = (wide, high)
        return self.mode, (0, 0, width / self._divisor, height / self._divisor)

    def load(self) -> Any:
        """Decodes the picture, once. Raises OSError where it is damaged."""
        if self._picture is not None:
            try:
                image = Image.fromarray(cast(Any, self._picture.image(scale=1 / self._divisor)))
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
