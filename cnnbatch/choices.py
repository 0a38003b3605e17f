"""Words that options take, for help that must not import what they choose from."""

from typing import Final

FORMATS: Final = ("original", "png", "webp", "jpeg")
"""Formats a picture can be asked for in."""

LAYOUTS: Final = ("original", "folder", "webdataset", "parquet")
"""Files that the pictures of an archive can be given back in."""

LEVELS: Final = ("log", "checksums", "decode", "source")
"""Levels of verification; each includes those before it."""

CONVERTED: Final = frozenset(("heic", "jp2", "j2k", "jxl"))
"""Formats that are decoded only where conversion is asked for; their pictures come back as `CONVERTED_TO`."""

CONVERTED_TO: Final = "avif"
