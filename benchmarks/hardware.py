"""The line about the machine that every benchmark prints."""

import os
import platform
from pathlib import Path

import torch


def hardware() -> dict[str, str]:
    """Processor, cores, device and versions."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "hardware": f"{', '.join(sorted(models))}, {os.cpu_count()} cores, {device}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
