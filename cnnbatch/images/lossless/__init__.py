"""Files kept so that they come back byte for byte, in as few bytes as they take.

kept = keep(data)                                           # made again and compared before it is returned
can_be_below(num_bytes, data, format)                        # whether it is worth the time to try
data = restore(kept.payload, kept.coding, num_bytes=…)
"""

from typing import TYPE_CHECKING

from cnnbatch.lazy import lazily

if TYPE_CHECKING:
    from cnnbatch.images.lossless.keeping import CODINGS, Kept, can_be_below, keep, restore
else:
    __getattr__ = lazily(__name__)

__all__ = ["CODINGS", "Kept", "can_be_below", "keep", "restore"]
