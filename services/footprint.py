"""The memory that a deployment takes on its GPU and in its host, and the time of a request on a card."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.cards import Card
from services.checkpoint import Checkpoint
from services.cost import BYTES, Cost, Phase
from services.levers import Offload

GPU_RUNTIME = 1_500_000_000
"""Bytes of a GPU that CUDA's context, its libraries and the gaps of torch's allocator take."""
HOST_RUNTIME = 4_000_000_000
"""Bytes of host memory that a replica takes beside weights: Python, torch and CUDA's libraries, and pinned buffers."""
FLOAT32_SHARE = 0.5
"""Speed of float32 (TF32) relative to bfloat16."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a deployment while it runs a request, in bytes."""

    gpu: Mapping[str, float]
    """What takes the GPU's memory at its peak → bytes."""
    host: Mapping[str, float]
    """What takes the host's memory → bytes."""

    @property
    def gpu_bytes(self) -> float:
        return sum(self.gpu.values())

    @property
    def host_bytes(self) -> float:
        return sum(self.host.values())


def weigh(checkpoint: Checkpoint, cost: Cost) -> dict[str, float]:
    """Return the name of each network → bytes of its weights as they are loaded."""
    weights = {part.name: float(part.parameters * BYTES[cost.precision[part.name]]) for part in checkpoint.components}
    return weights | dict(cost.resident)


def measure_footprint(checkpoint: Checkpoint, cost: Cost, offload: Offload) -> Footprint:
    """Return the memory that a request takes.

    Weights are read into host memory before they go to the GPU. With `model` one network at a time is on the GPU, with
    `group` and `sequential` a few of its layers; the VAE and what a checkpoint does not contain always are.
    """
    weights = weigh(checkpoint, cost)
    stays = {name for name in weights if offload == "none" or name == "vae" or name in cost.resident}
    fixed = sum(weights[name] for name in stays)

    def count_loaded(phase: Phase) -> float:
        moved = weights[phase.network] if phase.network not in stays else 0.0
        return moved if offload == "model" else moved / max(1, LAYERS_ALOFT)

    peak = max(cost.phases, key=lambda phase: count_loaded(phase) + phase.activation_bytes)
    title = peak.network or "network"
    gpu = {"weights": fixed + count_loaded(peak), f"activations of {title}": peak.activation_bytes}
    return Footprint(gpu | {"runtime": GPU_RUNTIME}, {"weights": sum(weights.values()), "runtime": HOST_RUNTIME})


LAYERS_ALOFT = 20
"""Part of a network whose layers are on the GPU with `group` or `sequential`: one in this number."""


def measure_seconds(checkpoint: Checkpoint, cost: Cost, card: Card, share: float) -> float:
    """Return the seconds of a request: its operations at a share of the card's peak, at least the time to read weights.

    Args:
        checkpoint: the checkpoint.
        cost: the cost of the request.
        card: the GPU.
        share: part of the card's peak that the networks reach, above 0 and at most 1.
    """
    weights = weigh(checkpoint, cost)
    total = 0.0
    for phase in cost.phases:
        halved = cost.precision[phase.network] == "float32"
        computed = phase.flop / (card.flops * share * (FLOAT32_SHARE if halved else 1.0))
        read = weights[phase.network] / card.bandwidth if phase.streams else 0.0
        total += phase.passes * max(computed, read)
    return total
