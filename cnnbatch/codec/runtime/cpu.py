"""Features of this CPU."""

import torch


def cpu_has_any(*instructions: str) -> bool:
    """Whether this CPU has any of the sets of instructions, in torch's names; on an older torch, none."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in instructions)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware: twice as fast as float32, and three times slower without."""
    return cpu_has_any("avx512_bf16", "amx_bf16")
