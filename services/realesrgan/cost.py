"""What a run of frames costs that Real-ESRGAN enlarges."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint, Component
from services.cost import BYTES, Cost, Job, Jobs, Phase, describe_size
from services.limits import MAX_RUN
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import SHIPPED, RealEsrganSettings

TILE_ELEMENTS = 131
"""Elements of activations for each pixel of a batch of tiles, at 64 channels and four times the size."""
INCLUDED = Checkpoint(
    repository="realesr-animevideov3",
    revision="",
    pipeline={},
    components=(
        Component(name="", library="reelgraph", class_name="", config={}, parameters=621_424, dtype="float16"),
    ),
    files=(),
    disk_bytes=SHIPPED.stat().st_size,
    roles=("upscale",),
    defaults={},
)
"""realesr-animevideov3."""


def estimate_cost(checkpoint: Checkpoint, settings: RealEsrganSettings, job: Job[UpscaleRequest]) -> Cost:
    """Return the cost of a run of `job.pictures` frames of `job.area` pixels by realesr-animevideov3."""
    side = settings.tile or round(job.area**0.5)
    margin = 18 if settings.tile_margin is None else settings.tile_margin
    tiles = max(1.0, job.area / side**2)
    seen = min(job.area, tiles * (side + 2 * margin) ** 2)
    held = min(settings.batch, job.pictures) * seen / tiles * TILE_ELEMENTS * BYTES[settings.dtype]
    whole = min(settings.batch, job.pictures) * job.area * 16 * 3 * 4
    phase = Phase("", job.pictures, 2.0 * checkpoint.components[0].parameters * seen, held + whole)
    return Cost((phase,), "", describe_size(job.area, job.pictures), {"": settings.dtype})


def list_jobs(_checkpoint: Checkpoint, settings: RealEsrganSettings, _defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return a run of frames of 1024x576 pixels, and the largest run."""
    request = UpscaleRequest()
    return Jobs(
        Job(request, min(1024 * 576, settings.max_area // 16), MAX_RUN), Job(request, settings.max_area // 16, MAX_RUN)
    )
