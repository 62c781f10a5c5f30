"""How Stable Video Diffusion runs: diffusers' pipeline up to the latents, then the VAE's decoder window by window."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from PIL import Image, ImageOps

from services.device import find_device, finite, place, quiet, report_device_errors
from services.errors import ConfigError
from services.frames import MAX_RUN, Frames, Item, Progress
from services.pixels import pixels_of
from services.sizes import Sides
from services.svd.plan import SvdPlan
from services.svd.settings import SvdSettings
from services.weights.local import resolve
from services.worker import Outlet


class SvdModel:
    """A loaded checkpoint. One request at a time: the pipeline, its scheduler and its VAE hold a request's state."""

    def __init__(self, settings: SvdSettings, home: Path) -> None:
        self._settings = settings
        self._dtype = getattr(torch, settings.dtype)
        device = find_device(settings.device)
        self._pipe = _load(settings, home)
        if settings.forward_chunking:
            self._pipe.unet.enable_forward_chunking()
        # In chunks a layer is called more than once in a pass.
        place(self._pipe, device, settings.offload, in_order=not settings.forward_chunking)
        if settings.compile:  # as a whole: diffusers names no blocks that repeat in it
            self._pipe.unet.compile()

        halvings = len(self._pipe.unet.config.down_block_types) - 1
        self.sides = Sides(self._pipe.vae_scale_factor * 2**halvings)

    def animate(self, plan: SvdPlan, outlet: Outlet[Item]) -> None:
        """Denoise and decode `plan`, putting Progress and Frames into `outlet`.

        Raises:
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: nobody wants it any more; seen after each denoising step and each decoded window.
        """
        task = f"{plan.width}x{plan.height} pixels and {plan.request.num_frames} frames"
        with report_device_errors(task, "ask for a smaller size or fewer frames", self._release):
            self._decode(self._denoise(plan, outlet), plan, outlet)

    def _release(self) -> None:
        """Bring back a pipeline that an exception has left with its models on the device and its VAE in float32."""
        if self._pipe.vae.dtype != self._dtype:
            self._pipe.vae.to(dtype=self._dtype)
        self._pipe.maybe_free_model_hooks()

    def _denoise(self, plan: SvdPlan, outlet: Outlet[Item]) -> torch.Tensor:
        """Return the scaled latents, (1, frames, z, h, w) in the pipeline's dtype."""
        request = plan.request
        outlet.put(Progress("denoise", 0, request.steps))

        def on_step_end(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            outlet.check()
            outlet.put(Progress("denoise", step + 1, request.steps))
            return {}

        latents = self._pipe(
            image=_fitted(plan.image, plan),
            height=plan.height,
            width=plan.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            min_guidance_scale=request.min_guidance_scale,
            max_guidance_scale=self._rounded(request.max_guidance_scale),
            fps=request.fps,
            motion_bucket_id=request.motion_bucket_id,
            noise_aug_strength=request.noise_aug_strength,
            # On the CPU, whose generator gives every device the same noise.
            generator=torch.Generator().manual_seed(plan.seed),
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).frames
        return finite(latents)

    def _rounded(self, scale: float) -> float:
        """The pipeline asks twice whether the scale is above 1, at the second time rounded, and the two must agree."""
        return torch.tensor(scale, dtype=self._dtype).item()

    def _decode(self, latents: torch.Tensor, plan: SvdPlan, outlet: Outlet[Item]) -> None:
        total, window, overlap = plan.request.num_frames, self._settings.decode_window, self._settings.decode_overlap
        rate = Fraction(plan.request.fps)
        done = plan.start // window * window  # no window needs the pixels of another
        outlet.put(Progress("decode", done, total))
        for video in decode(self._pipe.vae, latents, window, overlap, done):
            outlet.check()
            pixels = pixels_of(video.float() * 0.5 + 0.5)
            kept = pixels[max(0, plan.start - done) :]
            done += len(pixels)
            for at in range(0, len(kept), MAX_RUN):
                outlet.put(Frames(kept[at : at + MAX_RUN], done - len(kept) + at, rate))
            outlet.put(Progress("decode", done, total))


@torch.no_grad()
def decode(
    vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor, window: int, overlap: int, first: int = 0
) -> Iterator[torch.Tensor]:
    """Decode in windows, each with some frames on either side that are thrown away.

    The decoder sees about 29 frames to either side, so this is not what decoding at once gives, only near it; without
    overlap it is what the pipeline does with `decode_chunk_size`, bit for bit.

    Args:
        vae: on the device and in the dtype it shall run in.
        latents: (1, frames, z, h, w), as the pipeline returns them.
        window: frames to a window.
        overlap: frames on either side that are decoded with it.
        first: where the first window begins.

    Yields:
        (n, 3, height, width) about [-1, 1]; n is `window`, or what is left.

    Raises:
        ModelFailed: the decoder made numbers that are not finite.
    """
    scaled = 1 / vae.config.scaling_factor * latents[0].to(vae.device, vae.dtype)
    total = len(scaled)
    for start in range(first, total, window):
        stop = min(start + window, total)
        low, high = max(0, start - overlap), min(total, stop + overlap)
        video = vae.decode(scaled[low:high], num_frames=high - low).sample
        yield finite(video[start - low : stop - low])


def _fitted(frames: Frames, plan: SvdPlan) -> Image.Image:
    """Scale until the frame is covered, and cut off evenly what hangs over. The pipeline scales no tensor for CLIP."""
    return ImageOps.fit(Image.fromarray(frames.pixels[0]), (plan.width, plan.height), Image.Resampling.LANCZOS)


def _load(settings: SvdSettings, home: Path) -> StableVideoDiffusionPipeline:
    quiet()
    folder = resolve(settings.weights, home)
    try:
        pipe = StableVideoDiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), variant=settings.variant, local_files_only=True
        )
    except (OSError, ValueError) as error:
        source = settings.weights.source
        raise ConfigError(f"weights: {source} is not a Stable Video Diffusion checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
