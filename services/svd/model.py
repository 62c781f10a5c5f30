"""Inference with Stable Video Diffusion: diffusers' pipeline up to the latents, then the VAE decoder in windows."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline

from services.device import find_device, finite, place, quiet, report_device_errors
from services.errors import ConfigError
from services.frames import MAX_RUN, Frames, Item, Progress
from services.pixels import fit_picture, pixels_of
from services.sizes import Sides
from services.svd.plan import SvdPlan
from services.svd.settings import SvdSettings
from services.weights.completeness import check_pipeline
from services.weights.local import resolve
from services.worker import Outlet


class SvdModel:
    """A loaded checkpoint.

    It handles one request at a time, because the pipeline, its scheduler and its VAE hold a request's state.
    """

    def __init__(self, settings: SvdSettings, home: Path) -> None:
        self._settings = settings
        self._dtype = getattr(torch, settings.dtype)
        device = find_device(settings.device)
        self._pipe = _load(settings, home)
        if settings.forward_chunking:
            self._pipe.unet.enable_forward_chunking()
        # With chunking a layer is called more than once per forward pass.
        place(self._pipe, device, settings.offload, in_order=not settings.forward_chunking)
        if settings.compile:  # as a whole: diffusers declares no repeated blocks for it
            self._pipe.unet.compile()

        halvings = len(self._pipe.unet.config.down_block_types) - 1
        self.sides = Sides(self._pipe.vae_scale_factor * 2**halvings)

    def animate(self, plan: SvdPlan, outlet: Outlet[Item]) -> None:
        """Denoise and decode `plan`, putting Progress and Frames into `outlet`.

        Raises:
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step and each decoded window.
        """
        task = f"{plan.width}x{plan.height} pixels and {plan.request.num_frames} frames"
        with report_device_errors(task, "ask for a smaller size or fewer frames", self._release):
            self._decode(self._denoise(plan, outlet), plan, outlet)

    def _release(self) -> None:
        """Reset the pipeline after an exception: move its models off the device and restore the VAE's dtype."""
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
            image=fit_picture(plan.image, plan.framing),
            height=plan.height,
            width=plan.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            min_guidance_scale=request.min_guidance_scale,
            max_guidance_scale=self._rounded(request.max_guidance_scale),
            fps=request.fps,
            motion_bucket_id=request.motion_bucket_id,
            noise_aug_strength=request.noise_aug_strength,
            # Generated on the CPU, so that the noise is the same on every device.
            generator=torch.Generator().manual_seed(plan.seed),
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).frames
        return finite(latents)

    def _rounded(self, scale: float) -> float:
        """Round the scale to the model's dtype: the pipeline compares it with 1 before and after rounding."""
        return torch.tensor(scale, dtype=self._dtype).item()

    def _decode(self, latents: torch.Tensor, plan: SvdPlan, outlet: Outlet[Item]) -> None:
        total, window, overlap = plan.request.num_frames, self._settings.decode_window, self._settings.decode_overlap
        rate = Fraction(plan.request.fps)
        done = plan.start // window * window  # windows are decoded independently
        outlet.put(Progress("decode", done, total))
        for video in decode(self._pipe.vae, latents, window, overlap, done):
            outlet.check()
            pixels = plan.framing.kept.cut(pixels_of(video.float() * 0.5 + 0.5))
            kept = pixels[max(0, plan.start - done) :]
            done += len(pixels)
            for at in range(0, len(kept), MAX_RUN):
                outlet.put(Frames(kept[at : at + MAX_RUN], done - len(kept) + at, rate))
            outlet.put(Progress("decode", done, total))


@torch.no_grad()
def decode(
    vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor, window: int, overlap: int, first: int = 0
) -> Iterator[torch.Tensor]:
    """Decode in windows, each with `overlap` frames on either side that are discarded.

    The decoder sees about 29 frames to either side, so the result only approximates decoding all frames at once.
    Without overlap it equals the pipeline's result with `decode_chunk_size`, bit for bit.

    Args:
        vae: on its device and in its dtype for decoding.
        latents: (1, frames, z, h, w), as the pipeline returns them.
        window: frames per window.
        overlap: frames on either side of a window that are decoded with it.
        first: index of the first window's first frame.

    Yields:
        (n, 3, height, width) about [-1, 1]; n is `window`, or fewer in the last window.

    Raises:
        ModelFailed: the decoder computed non-finite values.
    """
    scaled = 1 / vae.config.scaling_factor * latents[0].to(vae.device, vae.dtype)
    total = len(scaled)
    for start in range(first, total, window):
        stop = min(start + window, total)
        low, high = max(0, start - overlap), min(total, stop + overlap)
        video = vae.decode(scaled[low:high], num_frames=high - low).sample
        yield finite(video[start - low : stop - low])


def _load(settings: SvdSettings, home: Path) -> StableVideoDiffusionPipeline:
    quiet()
    folder = resolve(settings.weights, home)
    try:
        check_pipeline(folder, settings.variant)
        pipe = StableVideoDiffusionPipeline.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), variant=settings.variant, local_files_only=True
        )
    except (OSError, ValueError) as error:
        source = settings.weights.source
        raise ConfigError(f"weights: {source} is not a Stable Video Diffusion checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
