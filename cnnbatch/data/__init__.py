"""Archives as training data: for PyTorch, for Ray Data, as a file system.

::

    dataset = ArchiveDataset("s3://bucket/archive")              # map style: dataset[17]["image"], dataset[17]["label"]
    loader = torch.utils.data.DataLoader(dataset.iterable(shuffle=True, seed=1), batch_size=None)
    rows = read_archive("s3://bucket/archive", columns=["key", "label"])      # a dataset of Ray Data
    with fsspec.open("cnnbatch://a/b.jpg", archive="s3://bucket/archive") as file: ...
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnbatch.data.datasets import ArchiveDataset, ArchiveStream
    from cnnbatch.data.rays import read_archive

__all__ = ["ArchiveDataset", "ArchiveStream", "read_archive"]


def __getattr__(name: str) -> object:
    if name in {"ArchiveDataset", "ArchiveStream"}:
        from cnnbatch.data import datasets

        return getattr(datasets, name)
    if name == "read_archive":
        from cnnbatch.data.rays import read_archive

        return read_archive
    raise AttributeError(f"module 'cnnbatch.data' has no attribute {name!r}")
