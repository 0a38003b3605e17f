"""The line about the machine that measured."""

import os
import platform
from pathlib import Path

import torch


def hardware() -> str:
    """Model and number of the CPU cores of this machine, and its GPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{', '.join(sorted(models)) or platform.machine()}, {os.cpu_count()} cores, {device}"
