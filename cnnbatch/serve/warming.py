"""Makes ready before the first visitor: codec files, compiled kernels, processes."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from cnnbatch.errors import CnnbatchError
from cnnbatch.serve.iiif import parse_request
from cnnbatch.serve.library import Served
from cnnbatch.serve.state import State

SIDE = 256
REGION = "pct:45,45,10,10", "max", "0", "default.jpg"

logger = logging.getLogger(__name__)


def warm(state: State, served: Served) -> None:
    """Decodes the first picture of an archive that was coded, and starts what decodes other files where it has such."""
    index = served.version.index
    outcomes = index.table.column("outcome").cast(pa.string())
    first = pc.index(outcomes, "cnn").as_py()
    try:
        if first >= 0:
            shown = state.shown(served.version, first)
            state.pixels.thumbnail(shown, SIDE)
            middle = parse_request(*REGION).resolve(*shown.upright_size, state.limits)
            state.pixels.pixels(shown, middle, "archive", lambda: b"")
        if served.source is not None or pc.index(outcomes, "store").as_py() >= 0:
            state.foreign.start()
    except (CnnbatchError, ValueError, KeyError) as error:  # whoever asks for it is told so
        logger.warning("archive %s: its first picture could not be decoded: %s", served.name, error)
