"""Deflate streams (RFC 1951) ↔ their content and a recipe that makes the same stream of it again.

recipe = analyse(stream, raw)                        # None where there is none; to be tried
stream = rebuild(raw, recipe, max_bytes=len(stream))
"""

from cnnbatch.images.lossless.deflate.recipe import analyse, inflate, rebuild

__all__ = ["analyse", "inflate", "rebuild"]
