"""Inference with ModelScope's text-to-video: diffusers' pipeline up to the latents, then the VAE in batches."""

import logging
from fractions import Fraction
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor

from services.device import find_device, finite, place, quiet, report_device_errors
from services.errors import ConfigError
from services.frames import Frames, Item, Progress
from services.pixels import pixels_of
from services.plan import VideoPlan
from services.sizes import Sides
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.settings import TextToVideoSettings
from services.weights.completeness import check_pipeline
from services.weights.local import resolve
from services.worker import Outlet


class TextToVideoModel:
    """A loaded checkpoint. It handles one request at a time: the pipeline and its scheduler hold a request's state."""

    def __init__(self, settings: TextToVideoSettings, home: Path) -> None:
        self._settings = settings
        device = find_device(settings.device)
        self._pipe = _load(settings, home)
        if settings.solver is not None:
            self._pipe.scheduler = DPMSolverMultistepScheduler.from_config(self._pipe.scheduler.config)
        if settings.forward_chunking:
            _feed_by_frames(self._pipe.unet)
        # With chunking a layer is called more than once per forward pass.
        place(self._pipe, device, settings.offload, in_order=not settings.forward_chunking)

        self.sides = Sides(self._pipe.vae_scale_factor)  # the UNet accepts latents of any size
        schedule = self._pipe.scheduler.config
        self.most_steps: int = schedule.num_train_timesteps - schedule.get("steps_offset", 0) - 1
        """Largest number of denoising steps for the noise schedule; DPM-Solver++ starts one above the first level."""

    def generate(self, plan: VideoPlan[TextToVideoRequest], outlet: Outlet[Item]) -> None:
        """Denoise and decode `plan`, putting Progress and Frames into `outlet`.

        Raises:
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step and each decoded batch.
        """
        task = f"{plan.width}x{plan.height} pixels and {plan.request.num_frames} frames"
        # After an exception the pipeline's models are still on the device.
        release = self._pipe.maybe_free_model_hooks
        with report_device_errors(task, "ask for a smaller size or fewer frames", release):
            self._decode(self._denoise(plan, outlet), plan, outlet)

    def _denoise(self, plan: VideoPlan[TextToVideoRequest], outlet: Outlet[Item]) -> Tensor:
        """Return the scaled latents, (1, z, frames, h, w) in the pipeline's dtype."""
        request = plan.request
        outlet.put(Progress("denoise", 0, request.steps))

        def on_step(step: int, _timestep: Tensor, _latents: Tensor) -> None:
            outlet.put(Progress("denoise", step + 1, request.steps))

        latents = self._pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=plan.height,
            width=plan.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            # Generated on the CPU, so that the noise is the same on every device.
            generator=torch.Generator().manual_seed(plan.seed),
            output_type="latent",
            callback=on_step,
        ).frames
        return finite(latents)

    @torch.no_grad()
    def _decode(self, latents: Tensor, plan: VideoPlan[TextToVideoRequest], outlet: Outlet[Item]) -> None:
        vae, total, batch = self._pipe.vae, plan.request.num_frames, self._settings.decode_batch
        scaled = 1 / vae.config.scaling_factor * latents[0].transpose(0, 1)  # (frames, z, h, w)
        done = plan.start
        outlet.put(Progress("decode", done, total))
        while done < total:
            # Batch boundaries do not depend on `start`, because rounding depends on the frames in the batch.
            first = done // batch * batch
            video = vae.decode(scaled[first : first + batch]).sample  # (n, 3, height, width) about [-1, 1]
            pixels = pixels_of(finite(video).float() * 0.5 + 0.5)
            outlet.put(Frames(pixels[done - first :], done, Fraction(plan.request.fps)))
            done = first + len(pixels)
            outlet.put(Progress("decode", done, total))


def _feed_by_frames(unet: UNet3DConditionModel) -> None:
    """Let the feed-forward layers process one frame at a time.

    Spatial layers see (frames, pixels, channels), temporal layers (pixels, frames, channels). diffusers' own chunking
    uses one dimension for both, which would process the temporal layers pixel by pixel.
    """
    unet.enable_forward_chunking(chunk_size=1, dim=0)
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            for block in module.transformer_blocks:
                block.set_chunk_feed_forward(chunk_size=1, dim=1)


def _load(settings: TextToVideoSettings, home: Path) -> TextToVideoSDPipeline:
    quiet()
    # It would log the truncated part of a long prompt.
    logging.getLogger(TextToVideoSDPipeline.__module__).setLevel(logging.ERROR)
    folder = resolve(settings.weights, home)
    try:
        check_pipeline(folder, settings.variant)
        pipe = TextToVideoSDPipeline.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), variant=settings.variant, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights: {settings.weights.source} is not a text-to-video checkpoint ({error})") from error
    if not isinstance(pipe.unet, UNet3DConditionModel):  # diffusers only logs this
        kind = type(pipe.unet).__name__
        raise ConfigError(f"weights: {settings.weights.source} is not a text-to-video checkpoint (it has a {kind})")
    pipe.set_progress_bar_config(disable=True)
    return pipe
