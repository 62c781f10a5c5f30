"""GPUs for which `reel models check` computes what fits and how long it takes. Figures are the makers' own."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    title: str
    memory_bytes: int
    """Memory that the driver reports."""
    flops: float
    """Dense bfloat16 operations per second with float32 sums, at the maker's peak."""
    bandwidth: float
    """Bytes per second of its memory."""


CARDS = {
    "h200": Card("NVIDIA H200", 143_771 * MIB, 989e12, 4.8e12),
    "h100-80": Card("NVIDIA H100 SXM with 80 GB", 81_559 * MIB, 989e12, 3.35e12),
    "a100-40": Card("NVIDIA A100 with 40 GB", 40_960 * MIB, 312e12, 1.555e12),
    "4090": Card("NVIDIA GeForce RTX 4090", 24_564 * MIB, 165e12, 1.008e12),
}
"""Name on the command line → GPU."""
