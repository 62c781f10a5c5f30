"""What a request to Stable Video Diffusion costs."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    Convolutions,
    Cost,
    Job,
    Jobs,
    Phase,
    count_encoder,
    describe_size,
    encode_picture,
    find_config,
    make_jobs,
)
from services.svd.request import Animation, SvdRequest
from services.svd.settings import SvdSettings

WIDTH = 320
FRAME, SPACE, TIME, FIXED, HELD = 277.4e6, 7_467.0, 11_259.0, 1.06e11, 9_150.0
"""Work of the UNet, at a width of 320, for each element of a latent: operations; operations for each other element of
its frame; for each other frame; of a pass as a whole; elements of activations."""
DECODER = Convolutions(128, 734.5e6, 512, 65_600)


def estimate_cost(checkpoint: Checkpoint, settings: SvdSettings, job: Job[Animation]) -> Cost:
    """Return the cost of a request with Animation's fields. Guidance doubles the batch of a pass."""
    request = job.request
    frames, latents = request.num_frames, job.area // 64
    unet = find_config(checkpoint, "unet")
    viewer = find_config(checkpoint, "image_encoder")
    scale = (unet["block_out_channels"][0] / WIDTH) ** 2
    batch = 2 if request.max_guidance_scale > 1 else 1
    flop = scale * (frames * latents * (FRAME + SPACE * latents + TIME * frames) + FIXED)
    held = batch * frames * latents * HELD * scale**0.5 * BYTES[settings.dtype]
    patches = (viewer["image_size"] // viewer["patch_size"]) ** 2 + 1
    seen = count_encoder(viewer, patches)
    phases = (
        Phase("image_encoder", 1, seen, 16.0 * patches * viewer["hidden_size"]),
        encode_picture(checkpoint, job.area, 1, "float32"),
        Phase("unet", request.steps, batch * flop, held),
        _decode(checkpoint, settings, frames, latents),
    )
    precision = {part.name: settings.dtype for part in checkpoint.components}
    return Cost(phases, "unet", describe_size(job.area, frames), precision)


def _decode(checkpoint: Checkpoint, settings: SvdSettings, frames: int, latents: int) -> Phase:
    """Return the phase of the temporal decoder, which decodes windows with their overlap at both sides."""
    channels = find_config(checkpoint, "vae")["block_out_channels"]
    window, overlap = settings.decode_window, settings.decode_overlap
    decoded = [min(frames, start + window + overlap) - max(0, start - overlap) for start in range(0, frames, window)]
    flop = sum(decoded) * DECODER.count(latents, channels[0])
    return Phase("vae", 1, flop, max(decoded) * DECODER.hold(latents, channels[0], BYTES[settings.dtype]))


def list_jobs(_checkpoint: Checkpoint, settings: SvdSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    return make_jobs(SvdRequest, settings.limits, defaults, {"max_guidance_scale": 3.0})
