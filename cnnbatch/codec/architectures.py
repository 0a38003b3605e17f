"""The architectures that a codec file may name."""

from typing import Any, Final

from cnnbatch.codec.architecture import Architecture
from cnnbatch.codec.dense_arrays import DenseArchitecture
from cnnbatch.codec.hyperprior_arrays import HyperpriorArchitecture

ARCHITECTURES: Final[dict[str, Architecture[Any, Any]]] = {
    architecture.name: architecture for architecture in (HyperpriorArchitecture(), DenseArchitecture())
}
