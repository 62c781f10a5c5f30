"""Inference with Wan: diffusers' pipeline up to the latents, then the VAE decoder one latent frame at a time."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from PIL import Image

from services.device import find_device, finite, place, quiet, report_device_errors, set_attention
from services.errors import ConfigError, InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress
from services.framing import Box
from services.pixels import fit_picture
from services.sizes import Sides
from services.wan.plan import WanPlan, WanTextPlan
from services.wan.request import Denoising
from services.wan.settings import WanSettings
from services.weights.completeness import check_pipeline
from services.weights.local import resolve
from services.weights.loras.active import Loras
from services.worker import Outlet

PREVIEW_SIDE = 256
"""Longer side of a preview, in pixels."""


class WanModel:
    """A loaded checkpoint. It handles one request at a time: the pipeline and its scheduler hold a request's state."""

    def __init__(self, settings: WanSettings, home: Path) -> None:
        self._settings = settings
        device = find_device(settings.device)
        self._pipe = _load(settings, home)
        self._schedule = dict(self._pipe.scheduler.config)
        self.loras = Loras(settings, home, self._pipe, "wan", _experts(self._pipe))
        set_attention(_experts(self._pipe).values(), settings.attention)
        # With a step cache some steps skip layers.
        place(self._pipe, device, settings.offload, in_order=settings.step_cache is None)
        for transformer in _experts(self._pipe).values():
            if settings.step_cache is not None:
                transformer.enable_cache(FirstBlockCacheConfig(threshold=settings.step_cache.threshold))
            if settings.compile:  # the step cache branches on a device value, which breaks the graph
                transformer.compile_repeated_blocks(fullgraph=settings.step_cache is None)

        expands = bool(self._pipe.config.expand_timesteps)
        network = self._pipe.transformer.config
        patch = network.patch_size
        # A transformer that continues a picture has further input channels for it, or time steps per token.
        self.takes_image = expands or network.in_channels > network.out_channels
        self.takes_text_alone = expands or network.in_channels == network.out_channels
        self._text_pipe = _share_networks(self._pipe)
        self.has_two_experts = self._pipe.config.boundary_ratio is not None
        self.takes_last_image = self.takes_image and not expands
        multiple: int = self._pipe.vae_scale_factor_spatial * max(patch[1:])
        # The transformer has no position embeddings beyond the longest side.
        self.sides = Sides(multiple, longest=network.rope_max_seq_len * multiple)
        self.rate = settings.rate or Fraction(24 if expands else 16)

    def generate(self, plan: WanPlan | WanTextPlan, outlet: Outlet[Item]) -> None:
        """Denoise and decode `plan`, putting Progress and Frames into `outlet`.

        Raises:
            InvalidParameter: `steps` is too large for `shift`, or a LoRA cannot be used.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step and each decoded latent frame.
        """
        task = f"{plan.width}x{plan.height} pixels and {plan.request.num_frames} frames"
        # After an exception the pipeline's step cache is filled and its models are on the device.
        release = self._pipe.maybe_free_model_hooks
        with (
            report_device_errors(task, "ask for a smaller size or fewer frames", release),
            self.loras.activate(plan.request.loras) as facts,
        ):
            for name, value in facts.items():
                outlet.put(Fact(name, value))
            self._decode(self._denoise(plan, outlet), plan, outlet)

    def _denoise(self, plan: WanPlan | WanTextPlan, outlet: Outlet[Item]) -> torch.Tensor:
        """Return the normalised latents, (1, z, t, h, w) float32."""
        request = plan.request
        pipe = self._pipe if isinstance(plan, WanPlan) else self._text_pipe
        pipe.scheduler = _scheduler(request, self._schedule)
        outlet.put(Progress("denoise", 0, request.steps))

        def on_step_end(pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            outlet.check()
            preview = self._preview(step + 1, pipe.scheduler, _find_kept(plan))
            outlet.put(Progress("denoise", step + 1, request.steps, preview))
            return {}

        latents = pipe(
            **_fit_pictures(plan),
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=plan.height,
            width=plan.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_scale_2=request.guidance_scale_2,
            # Generated on the CPU, so that the noise is the same on every device.
            generator=torch.Generator().manual_seed(plan.seed),
            output_type="latent",
            callback_on_step_end=on_step_end,
            max_sequence_length=self._settings.max_sequence_length,
        ).frames
        return finite(latents)

    def _decode(self, latents: torch.Tensor, plan: WanPlan | WanTextPlan, outlet: Outlet[Item]) -> None:
        total, done = plan.request.num_frames, 0
        whole = _find_kept(plan)
        outlet.put(Progress("decode", done, total))
        for video in decode(self._pipe.vae, denormalise(self._pipe.vae, latents)):
            outlet.check()
            pixels = whole.cut(to_pixels(video))
            kept = pixels[max(0, plan.start - done) :]
            done += len(pixels)
            if len(kept):
                outlet.put(Frames(kept, done - len(kept), self.rate))
            outlet.put(Progress("decode", done, total))

    def _preview(self, step: int, scheduler: Any, part: Box) -> Frames | None:
        every = self._settings.preview_every
        if every == 0 or step % every:
            return None
        # Both solvers keep their estimate of the final latents, a clearer picture than the noisy ones.
        estimate = scheduler.model_outputs[-1]  # (1, z, t, h, w) float32
        middle = estimate.shape[2] // 2
        latents = denormalise(self._pipe.vae, estimate[:, :, middle : middle + 1])
        image = Image.fromarray(part.cut(to_pixels(next(decode(self._pipe.vae, latents))))[0])
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return Frames(np.array(image)[None], max(0, 4 * middle - 3), self.rate)


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """Decode one latent frame at a time: equals `vae.decode`, bit for bit, but yields frames as they are decoded.

    The decoder is causal: its only state is the list of cached features, which this function keeps.

    Args:
        vae: on its device for decoding.
        latents: (1, z, t, h, w), as expected by `vae.decode`.

    Yields:
        (1, 3, n, height, width) in [-1, 1]; n is 1 for the first latent frame and 4 for each later one.

    Raises:
        ModelFailed: the decoder computed non-finite values.
    """
    hidden = vae.post_quant_conv(latents)
    cache: list[Any] = [None] * vae._cached_conv_counts["decoder"]
    for index in range(hidden.shape[2]):
        frame = hidden[:, :, index : index + 1]
        video = vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=index == 0)
        if vae.config.patch_size is not None:
            video = unpatchify(video, patch_size=vae.config.patch_size)
        yield finite(video).clamp(-1.0, 1.0)


def denormalise(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Return latents as expected by `vae.decode`, on the VAE's device in its dtype, rounded as by the pipeline."""
    latents = latents.to(vae.device, vae.dtype)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    return latents / scale + mean


def to_pixels(video: torch.Tensor) -> Pixels:
    """Convert (1, 3, n, h, w) in [-1, 1] to (n, h, w, 3) uint8, rounded as by the pipeline's post-processing."""
    unit = (video[0].permute(1, 2, 3, 0) * 0.5 + 0.5).clamp(0, 1)
    return (unit.float() * 255).round().to(torch.uint8).contiguous().cpu().numpy()


def _find_kept(plan: WanPlan | WanTextPlan) -> Box:
    """Return the part of the sampled frames that is sent."""
    return plan.framing.kept if isinstance(plan, WanPlan) else Box(0, 0, plan.width, plan.height)


def _fit_pictures(plan: WanPlan | WanTextPlan) -> dict[str, Image.Image | None]:
    """Return the arguments of the pipeline for the pictures of a request, fitted into its frames."""
    if not isinstance(plan, WanPlan):
        return {}
    last = None if plan.last_image is None else fit_picture(plan.last_image, plan.framing)
    return {"image": fit_picture(plan.image, plan.framing), "last_image": last}


def _scheduler(request: Denoising, config: dict[str, Any]) -> Any:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": request.shift}
    if request.solver == "unipc":
        scheduler = UniPCMultistepScheduler.from_config(config, **flow, predict_x0=True)
    else:
        scheduler = DPMSolverMultistepScheduler.from_config(config, **flow, algorithm_type="dpmsolver++")
    scheduler.set_timesteps(request.steps)
    first = scheduler.timesteps[:2].tolist()  # integers; the scheduler finds its position by the first value
    if len(first) == 2 and first[0] == first[1]:
        raise InvalidParameter(
            f"steps: {request.steps} are too many for shift {request.shift}: the first two fall together", param="steps"
        )
    return scheduler


def _load(settings: WanSettings, home: Path) -> WanImageToVideoPipeline:
    quiet()
    folder = resolve(settings.weights, home)
    dtype = {"vae": getattr(torch, settings.vae_dtype), "default": getattr(torch, settings.dtype)}
    try:
        check_pipeline(folder)
        pipe = WanImageToVideoPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights: {settings.weights.source} is not a Wan checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _share_networks(pipe: WanImageToVideoPipeline) -> WanPipeline:
    """Return the pipeline without a picture, with the networks of `pipe`, where and as they are placed."""
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer", "transformer_2")
    options = {name: pipe.config[name] for name in ("boundary_ratio", "expand_timesteps")}
    shared = WanPipeline(**{name: getattr(pipe, name) for name in names}, **options)
    shared._exclude_from_cpu_offload = pipe._exclude_from_cpu_offload
    shared.set_progress_bar_config(disable=True)
    return shared


def _experts(pipe: WanImageToVideoPipeline) -> dict[str, WanTransformer3DModel]:
    """Return the checkpoint's transformers by noise level, `high` and `low`."""
    experts = {"high": pipe.transformer, "low": pipe.transformer_2}
    return {name: expert for name, expert in experts.items() if expert is not None}
