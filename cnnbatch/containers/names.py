"""Names as evidence: of pictures, of containers, and of what belongs to one sample."""

import re
from typing import Final

from cnnbatch.storage.keys import is_readable_key

PICTURES: Final = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff", "avif", "heic", "heif", "jxl",
    "jp2", "j2k", "jpx", "ppm", "pgm", "pbm", "pnm", "pfm", "ico", "tga", "psd", "exr", "hdr", "dng", "cr2", "cr3", "nef",
    "arw", "orf", "raf", "rw2", "pef",
))  # fmt: skip
"""Endings of names of pictures, also of such as nothing here decodes."""

TARS: Final = {".tar": None, ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tzst": "zstd"}
"""Endings of tar files, and how each is compressed."""

_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


def is_picture(name: str) -> bool:
    """Whether a name is that of a picture, by its ending."""
    return name.rpartition(".")[2].lower() in PICTURES


def tar_compression(name: str) -> str | None:
    """How a tar of that name is compressed; raises KeyError for what is no tar's name."""
    lower = name.lower()
    return TARS[max((ending for ending in TARS if lower.endswith(ending)), key=len, default="")]


def is_tar(name: str) -> bool:
    """Whether a name is that of a tar."""
    return name.lower().endswith(tuple(TARS))


def sample_of(name: str) -> tuple[str, str] | None:
    """The sample that a member belongs to, and what it is of it, as WebDataset has it: its name to and from the first dot of
    its last part. None for a name without."""
    found = _SAMPLE.fullmatch(name)
    return (found[1], found[2]) if found else None


def clean_name(name: str) -> str | None:
    """A member's name as a part of a key: without ``./`` before it; None where it is none, such as ``../a`` or ``/a``."""
    cleaned = re.sub(r"^(\./+)+", "", name)
    return cleaned if is_readable_key(cleaned) else None
