"""What a request to ModelScope's text-to-video costs."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    PICTURE_DECODER,
    Cost,
    Job,
    Jobs,
    Phase,
    describe_size,
    encode_text,
    find_config,
    make_jobs,
)
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.settings import TextToVideoSettings

CLIP_TOKENS = 77
WIDTH = 320
FRAME, SPACE, TIME, HELD = 291.4e6, 6_322.0, 13_856.0, 10_650.0
"""Work of the UNet, at a width of 320, for each element of a latent: operations; operations for each other element of
its frame; for each other frame; elements of activations."""


def estimate_cost(checkpoint: Checkpoint, settings: TextToVideoSettings, job: Job[TextToVideoRequest]) -> Cost:
    """Return the cost of a request. Guidance doubles the batch of a pass."""
    request = job.request
    frames, latents = request.num_frames, job.area // 64
    unet = find_config(checkpoint, "unet")
    channels = find_config(checkpoint, "vae")["block_out_channels"]
    scale = (unet["block_out_channels"][0] / WIDTH) ** 2
    batch = 2 if request.guidance_scale > 1 else 1
    flop = scale * frames * latents * (FRAME + SPACE * latents + TIME * frames)
    held = batch * frames * latents * HELD * scale**0.5 * BYTES[settings.dtype]
    together = min(frames, settings.decode_batch)
    phases = (
        encode_text(checkpoint, "text_encoder", CLIP_TOKENS, batch),
        Phase("unet", request.steps, batch * flop, held),
        Phase(
            "vae",
            1,
            frames * PICTURE_DECODER.count(latents, channels[0]),
            together * PICTURE_DECODER.hold(latents, channels[0], BYTES[settings.dtype]),
        ),
    )
    precision = {part.name: settings.dtype for part in checkpoint.components}
    return Cost(phases, "unet", describe_size(job.area, frames), precision)


def list_jobs(_checkpoint: Checkpoint, settings: TextToVideoSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    return make_jobs(TextToVideoRequest, settings.limits, defaults, {"guidance_scale": 9.0}, (0, 0))
