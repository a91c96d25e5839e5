"""In which number type a device multiplies fastest."""

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for it. A CPU without them is about twice as fast in float32."""
    return device.type != "cpu" or any(there for name, there in getattr(torch.cpu, "get_capabilities", dict)().items() if "bf16" in name)


def quick(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the device multiplies it, to nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))
