"""Archives as training data: for PyTorch, for Ray Data, as a file system.

::

    dataset = ArchiveDataset("s3://bucket/archive")              # map style: dataset[17]["image"], dataset[17]["label"]
    loader = torch.utils.data.DataLoader(dataset.iterable(shuffle=True, seed=1), batch_size=None)
    rows = read_archive("s3://bucket/archive", columns=["key", "label"])      # a dataset of Ray Data
    with fsspec.open("cnnbatch://a/b.jpg::s3://bucket/archive") as file: ...
    rows = datasets.load_dataset("parquet", data_files=data_files(url)).with_transform(RowDecoder(url))   # Hugging Face
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbatch.data.datasets import ArchiveDataset, ArchiveStream
    from cnnbatch.data.libraries import RowDecoder, data_files, webdataset_sample
    from cnnbatch.data.rays import read_archive

__all__ = ["ArchiveDataset", "ArchiveStream", "RowDecoder", "data_files", "read_archive", "webdataset_sample"]

_MODULES = {
    "ArchiveDataset": "datasets",
    "ArchiveStream": "datasets",
    "RowDecoder": "libraries",
    "data_files": "libraries",
    "read_archive": "rays",
    "webdataset_sample": "libraries",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"cnnbatch.data.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'cnnbatch.data' has no attribute {name!r}")
