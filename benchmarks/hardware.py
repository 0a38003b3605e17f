"""The line about the machine that every benchmark prints."""

import platform

import torch

from cnnbatch.evaluation import machine


def hardware() -> dict[str, str]:
    """Processor, cores, device and versions."""
    return {
        "hardware": machine.hardware(),
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
