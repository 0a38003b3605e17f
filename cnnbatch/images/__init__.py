"""Files ↔ pixels: what a file is, its pixels and metadata, and the way back to a file.

    header = probe(data)                          # the header only; no pixel is allocated
    image = decode(data, max_pixels=2**28)        # uint8 pixels as stored, alpha and metadata beside them
    data = encode(image, format="original")       # a file of the same kind

All functions take and give ``bytes``, keep no state and may be called from many threads at once. Input is untrusted:
whatever is wrong with it raises `Undecodable` with a reason word, and sizes are checked before memory is taken.
"""

from typing import TYPE_CHECKING

from cnnbatch.lazy import lazily

if TYPE_CHECKING:
    from cnnbatch.images.decoding import decode
    from cnnbatch.images.encoding import encode
    from cnnbatch.images.headers import probe
    from cnnbatch.images.model import FORMATS, DecodedImage, ImageHeader
    from cnnbatch.images.transcode import restore_jpeg, transcode_jpeg
else:
    __getattr__ = lazily(__name__)

__all__ = ["FORMATS", "DecodedImage", "ImageHeader", "decode", "encode", "probe", "restore_jpeg", "transcode_jpeg"]
