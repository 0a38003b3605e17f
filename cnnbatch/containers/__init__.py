"""Data sets as people have them: tars of samples, and what it takes to write them again.

::

    source = open_source(open_store("s3://bucket/shards"), SourceSettings(kind="webdataset"))
    for info, picture in source.get_many(source.list(), max_bytes=256 << 20, concurrency=16):
        info.key, info.beside["label"]            # shards/000.tar/a.jpg, and what stood beside it
"""

from cnnbatch.containers.settings import SourceConfig, SourceSettings, parse_source
from cnnbatch.containers.source import ContainerSource, keeping_indexes, open_source

__all__ = ["ContainerSource", "SourceConfig", "SourceSettings", "keeping_indexes", "open_source", "parse_source"]
