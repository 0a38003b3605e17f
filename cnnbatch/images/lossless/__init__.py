"""Files kept so that they come back byte for byte, in as few bytes as they take.

kept = keep(data)                                           # made again and compared before it is returned
data = restore(kept.payload, kept.coding, num_bytes=…)
"""

from cnnbatch.images.lossless.keeping import CODINGS, Kept, keep, restore

__all__ = ["CODINGS", "Kept", "keep", "restore"]
