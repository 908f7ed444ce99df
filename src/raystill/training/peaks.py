"""What a GPU could do at most: the denominator of model FLOPs utilisation."""

import re

BF16_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100 HBM3": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Dense bf16 tensor-core operations per second, by the words of the name that the driver gives, from NVIDIA's data sheet of
each. Where a sheet only has the figure with sparsity (H100, H200, L4), it is half of that."""


def bf16_flops(name: str) -> float | None:
    """The peak of a GPU by its driver's name; None for one that is not listed, and for a slice of one (MIG)."""
    words = set(re.split(r"[\s-]+", name))
    if "MIG" in words:
        return None
    return next((peak for wanted, peak in BF16_FLOPS.items() if words.issuperset(wanted.split())), None)
