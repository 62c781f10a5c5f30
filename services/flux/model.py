"""Inference with Flux: diffusers' pipeline up to the latents, one picture at a time, then the VAE."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FirstBlockCacheConfig,
    FluxControlNetPipeline,
    FluxPipeline,
)
from torch import Tensor

from services.device import find_device, finite, place, quiet, report_device_errors, set_attention
from services.errors import ConfigError
from services.flux.identity import Identity, draw_pose
from services.flux.plan import FluxPlan
from services.flux.settings import FluxSettings
from services.frames import Fact, Frames, Item, Pixels, Progress
from services.pixels import averaged, pixels_of
from services.schedulers import CapturingEuler
from services.sizes import Sides
from services.weights.completeness import check_pipeline
from services.weights.local import resolve
from services.weights.loras.active import Loras
from services.worker import Outlet

PREVIEW_SIDE = 256
"""Longer side of a preview, in pixels."""

OnStep = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]


class FluxModel:
    """A loaded checkpoint. It handles one request at a time: the pipeline and its scheduler hold a request's state."""

    def __init__(self, settings: FluxSettings, home: Path) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._pipe = _load(settings, home)
        self._pipe.scheduler = CapturingEuler.from_config(self._pipe.scheduler.config)
        self._identity = self._load_identity(home)
        transformer = self._pipe.transformer
        self.loras = Loras(settings, home, self._pipe, "flux", {"": transformer})
        blocks = [transformer] if self._identity is None else [transformer, self._identity.controlnet]
        set_attention(blocks, settings.attention)
        place(self._pipe, self._device, settings.offload, in_order=settings.step_cache is None)
        self._cache_steps()
        if settings.compile:
            for model in blocks:
                model.compile_repeated_blocks(fullgraph=settings.step_cache is None)
        self._face_pipe = None
        if self._identity is not None:
            self._face_pipe = FluxControlNetPipeline(**self._pipe.components, controlnet=self._identity.controlnet)
            self._face_pipe.set_progress_bar_config(disable=True)
            self._face_pipe._exclude_from_cpu_offload = ["vae", "controlnet"]
        self.sides = Sides(self._pipe.vae_scale_factor * 2)

    def generate(self, plan: FluxPlan, outlet: Outlet[Item]) -> None:
        """Generate the pictures of `plan`, putting Progress and Frames into `outlet`.

        Raises:
            InvalidParameter: a LoRA cannot be used.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step.
        """
        task = f"{plan.width}x{plan.height} pixels"
        with (
            report_device_errors(task, "ask for a smaller size or fewer LoRAs", self._release),
            self.loras.activate(plan.request.loras) as facts,
            self._facing(plan),
        ):
            for name, value in facts.items():
                outlet.put(Fact(name, value))
            outlet.put(Progress("paint", 0, plan.request.n * plan.request.steps))
            for index in range(plan.request.n):
                outlet.put(Frames(self._paint(plan, index, outlet), first=index))

    def _release(self) -> None:
        """Reset the pipeline after an exception: clear its step cache and move its models off the device."""
        self._pipe.maybe_free_model_hooks()
        self._pipe.scheduler.velocity = None

    def _paint(self, plan: FluxPlan, index: int, outlet: Outlet[Item]) -> Pixels:
        request = plan.request
        # Generated on the CPU, so that the noise is the same on every device.
        generator = torch.Generator().manual_seed(plan.seed + index)
        pipe, more = self._pipe, {}
        if plan.face is not None:
            pipe, more = self._face_pipe, self._control(plan)
        latents = pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt if request.true_cfg_scale > 1 else None,
            true_cfg_scale=request.true_cfg_scale,
            height=plan.height,
            width=plan.width,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=generator,
            # Generated here: the pipeline for faces would first draw random numbers for the key points' image.
            latents=self._noise(plan, generator),
            output_type="latent",
            callback_on_step_end=self._on_step(plan, index, outlet),
            max_sequence_length=self._settings.max_sequence_length,
            **more,
        ).images
        outlet.check()
        return self._decoded(self._unpack_latents(finite(latents), plan))

    def _control(self, plan: FluxPlan) -> dict[str, Any]:
        request = plan.request
        return {
            "control_image": draw_pose(plan.pose, plan.width, plan.height),
            "controlnet_conditioning_scale": request.identity_strength,
            "control_guidance_start": request.identity_start,
            "control_guidance_end": request.identity_end,
        }

    def _on_step(self, plan: FluxPlan, index: int, outlet: Outlet[Item]) -> OnStep:
        steps, every = plan.request.steps, self._settings.preview_every

        def on_step_end(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            outlet.check()
            done, preview = step + 1, None
            if every and done % every == 0:
                scheduler = pipe.scheduler
                finished = tensors["latents"] - scheduler.sigmas[done].to(tensors["latents"]) * scheduler.velocity
                preview = Frames(self._sketched(self._unpack_latents(finished, plan)), first=index)
            outlet.put(Progress("paint", index * steps + done, plan.request.n * steps, preview))
            return {}

        return on_step_end

    def _noise(self, plan: FluxPlan, generator: torch.Generator) -> Tensor:
        """Return the packed noise that the pipeline itself would draw: (1, h/16 * w/16, 4z)."""
        channels = self._pipe.transformer.config.in_channels // 4
        dtype = self._pipe.transformer.dtype
        return self._pipe.prepare_latents(1, channels, plan.height, plan.width, dtype, self._device, generator)[0]

    def _unpack_latents(self, latents: Tensor, plan: FluxPlan) -> Tensor:
        """Unpack latents: (1, h/16 * w/16, 4z) → (1, z, h/8, w/8)."""
        return self._pipe._unpack_latents(latents, plan.height, plan.width, self._pipe.vae_scale_factor)

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Pixels:
        """Decode latents as the pipeline does: (1, z, h/8, w/8) → (1, h, w, 3) uint8."""
        vae = self._pipe.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        return pixels_of(finite(vae.decode(latents, return_dict=False)[0]) * 0.5 + 0.5)

    def _sketched(self, latents: Tensor) -> Pixels:
        """Decode a small preview: the latents, themselves a coarse picture, are averaged down first."""
        height, width = latents.shape[-2:]
        scale = min(1.0, PREVIEW_SIDE / self._pipe.vae_scale_factor / max(height, width))
        small = averaged(latents.float(), *(max(1, round(side * scale)) for side in (height, width)))
        return self._decoded(small)

    @contextmanager
    def _facing(self, plan: FluxPlan) -> Iterator[None]:
        """Let the ControlNet attend to the face within the block, if the plan has one."""
        if plan.face is None:
            yield
            return
        self._identity.controlnet.tokens = self._identity.tokens(plan.face)
        if self._settings.step_cache is not None:
            self._pipe.transformer.disable_cache()
        try:
            yield
        finally:
            self._identity.controlnet.tokens = None
            self._cache_steps()

    def _cache_steps(self) -> None:
        if self._settings.step_cache is not None:
            self._pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=self._settings.step_cache.threshold))

    def _load_identity(self, home: Path) -> Identity | None:
        settings = self._settings.identity
        if settings is None:
            return None
        folder = resolve(settings.weights, home) / settings.folder
        return Identity(folder, self._pipe.transformer, self._device)


def _load(settings: FluxSettings, home: Path) -> FluxPipeline:
    quiet()
    for name in ("pipeline_flux", "pipeline_flux_controlnet"):  # they log the truncated part of a long prompt
        logging.getLogger(f"diffusers.pipelines.flux.{name}").setLevel(logging.ERROR)
    folder = resolve(settings.weights, home)
    try:
        check_pipeline(folder)
        pipe = FluxPipeline.from_pretrained(folder, dtype=getattr(torch, settings.dtype), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights: {settings.weights.source} is not a FLUX.1 checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
