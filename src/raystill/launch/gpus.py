"""Kinds of GPU nodes: what a node of each has, so that pods are sized without asking a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node of this GPU type. CPUs and memory are per GPU, what the smallest usual node leaves beside its own daemons."""

    product: str
    """The label nvidia.com/gpu.product, as NVIDIA's GPU feature discovery writes it."""
    gpus: int
    cpus_per_gpu: int
    gib_per_gpu: int


KINDS = {
    "b200": Node("NVIDIA-B200", 8, 20, 200),
    "h200": Node("NVIDIA-H200", 8, 11, 200),
    "h100": Node("NVIDIA-H100-80GB-HBM3", 8, 11, 200),
    "a100-80gb": Node("NVIDIA-A100-SXM4-80GB", 8, 11, 120),
    "a100-40gb": Node("NVIDIA-A100-SXM4-40GB", 8, 11, 72),
    "l40s": Node("NVIDIA-L40S", 8, 20, 160),
    "l4": Node("NVIDIA-L4", 8, 11, 40),
}
"""By the name that compute.kubernetes.gpu takes. Nodes with 8 GPUs, as clouds rent them: 96 CPUs and more."""
