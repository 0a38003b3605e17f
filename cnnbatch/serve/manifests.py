"""IIIF Presentation 3.0: a folder as a manifest of its pictures, and as a collection of its folders.

A folder of many pictures has several manifests of `CANVASES`, which its collection lists. What is not known without reading the
files (the size of stored pictures, orientations) stands in the images' own ``info.json``; a canvas takes the size as stored.
"""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from cnnbatch.serve.index import Index
from cnnbatch.text import visible

CONTEXT: Final = "http://iiif.io/api/presentation/3/context.json"
CANVASES: Final = 500
MOST_MEMBERS: Final = 10_000
THUMBNAIL: Final = 256
UNKNOWN_SIDE: Final = 1000

Address = Callable[[str], str]
"""A path below the server → its address."""


def collection(index: Index, name: str, folder: str, address: Address) -> dict[str, Any]:
    """The folders in a folder, and the manifests of its own pictures."""
    here = f"/presentation/{name}/{quote(folder, safe='')}"
    items = [
        {
            "id": address(f"/presentation/{name}/{quote(sub.path, safe='')}/collection.json"),
            "type": "Collection",
            **label(sub.path),
        }
        for sub in index.subfolders(folder)
    ]
    for page in range(num_pages(index, folder)):
        shown = {"label": {"none": [f"{folder or name} {page * CANVASES + 1}…"]}} if page else label(folder or name)
        items.append({"id": address(f"{here}/{page + 1}/manifest.json"), "type": "Manifest", **shown})
    return {
        "@context": CONTEXT,
        "id": address(f"{here}/collection.json"),
        "type": "Collection",
        **label(folder or name),
        "items": items[:MOST_MEMBERS],
    }


def num_pages(index: Index, folder: str) -> int:
    """How many manifests a folder's pictures take, those of its subfolders included."""
    return -(-len(index.below(folder)) // CANVASES)


def manifest(index: Index, name: str, folder: str, page: int, address: Address) -> dict[str, Any]:
    """Canvases of the pictures below a folder, from ``page`` 1 on. Raises LookupError where it has no such page."""
    if not 1 <= page <= num_pages(index, folder):
        raise LookupError(f"{folder!r} has no page {page}")
    rows = index.below(folder)[(page - 1) * CANVASES : page * CANVASES]
    where = address(f"/presentation/{name}/{quote(folder, safe='')}/{page}/manifest.json")
    return {
        "@context": CONTEXT,
        "id": where,
        "type": "Manifest",
        **label(folder or name),
        "behavior": ["individuals"],
        "items": [_canvas(row, f"{where}/canvas", name, address) for row in index.rows(rows)],
    }


def _canvas(row: dict[str, Any], where: str, name: str, address: Address) -> dict[str, Any]:
    key = row["key"]
    part = quote(key, safe="")
    width, height = row["width"] or UNKNOWN_SIDE, row["height"] or UNKNOWN_SIDE
    service = address(f"/iiif/{name}/{part}")
    canvas = f"{where}/{part}"
    services = [{"id": service, "type": "ImageService3", "profile": "level2"}]
    return {
        "id": canvas,
        "type": "Canvas",
        **label(key),
        "width": width,
        "height": height,
        "thumbnail": [
            {
                "id": f"{service}/full/!{THUMBNAIL},{THUMBNAIL}/0/default.jpg",
                "type": "Image",
                "format": "image/jpeg",
                "service": services,
            }
        ],
        "metadata": [_pair(text, row[column]) for text, column in SHOWN.items() if row[column] is not None],
        "items": [
            {
                "id": f"{canvas}/page",
                "type": "AnnotationPage",
                "items": [
                    {
                        "id": f"{canvas}/annotation",
                        "type": "Annotation",
                        "motivation": "painting",
                        "target": canvas,
                        "body": {
                            "id": f"{service}/full/max/0/default.jpg",
                            "type": "Image",
                            "format": "image/jpeg",
                            "width": width,
                            "height": height,
                            "service": services,
                        },
                    }
                ],
            }
        ],
    }


SHOWN: Final = {
    "Format": "source_format",
    "Bytes": "source_size",
    "Outcome": "outcome",
    "PSNR, dB": "psnr_db",
    "Label": "label",
}


def label(text: str) -> dict[str, Any]:
    """A label in no language."""
    return {"label": {"none": [visible(text)]}}


def _pair(name: str, value: object) -> dict[str, Any]:
    shown = f"{value:.2f}" if isinstance(value, float) else visible(str(value))
    return {"label": {"en": [name]}, "value": {"none": [shown]}}
