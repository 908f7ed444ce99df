"""Kinds of GPU nodes: what a node of each has, so that pods are sized and runs are planned without asking a cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node of this GPU type. CPUs and memory are per GPU, what the smallest usual node leaves beside its own daemons."""

    product: str
    """The label nvidia.com/gpu.product, as NVIDIA's GPU feature discovery writes it."""
    gpus: int
    cpus_per_gpu: int
    gib_per_gpu: int
    gb: int
    """Memory of a GPU."""
    tflops: float
    """Of a GPU in bf16, dense; twice that in fp8 where it has it."""
    tb_per_s: float
    """Its memory's bandwidth."""
    fp8: bool = True


KINDS = {
    "b200": Node("NVIDIA-B200", 8, 20, 200, 180, 2250, 8.0),
    "h200": Node("NVIDIA-H200", 8, 11, 200, 141, 989, 4.8),
    "h100": Node("NVIDIA-H100-80GB-HBM3", 8, 11, 200, 80, 989, 3.35),
    "a100-80gb": Node("NVIDIA-A100-SXM4-80GB", 8, 11, 120, 80, 312, 2.04, fp8=False),
    "a100-40gb": Node("NVIDIA-A100-SXM4-40GB", 8, 11, 72, 40, 312, 1.56, fp8=False),
    "l40s": Node("NVIDIA-L40S", 8, 20, 160, 48, 362, 0.86),
    "l4": Node("NVIDIA-L4", 8, 11, 40, 24, 121, 0.3),
}
"""By the name that compute.kubernetes.gpu takes. Nodes with 8 GPUs, as clouds rent them: 96 CPUs and more. Memory, speed and
bandwidth are those of NVIDIA's data sheets."""
