"""Train from an archive: WebDataset tars in, batches of PyTorch out.

    cnnbatch compress tars/ archive/
    python docs/examples/webdataset_to_pytorch.py archive/ --epochs 2

The tars hold samples of a picture and its class (``000017.jpg``, ``000017.cls``). Pictures are decoded at half their size,
without the network, which is enough for training a classifier.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cnnbatch.data import ArchiveDataset

SIDE = 64


def example(sample: dict[str, object]) -> tuple[Tensor, int]:
    """A sample of the archive → picture [3, SIDE, SIDE] in 0…1 and its class."""
    picture = sample["image"]
    assert isinstance(picture, Tensor)
    resized = F.interpolate(picture[None].float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)
    return resized[0], int(str(sample["label"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("--pattern", default="*.jpg", help="keys of the pictures (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    dataset = ArchiveDataset(options.archive, pattern=options.pattern, transform=example, decoder="draft", scale=1 / 2)
    stream = dataset.iterable(shuffle=True, seed=0)
    loader = DataLoader(stream, batch_size=16)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, options.classes)
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(options.epochs):
        stream.set_epoch(epoch)
        for pictures, classes in loader:
            loss = F.cross_entropy(model(pictures), classes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch}: loss {float(loss):.3f}")


if __name__ == "__main__":
    main()
