"""Inference with Qwen-Image-Edit: diffusers' pipeline with guidance after its steps, then the VAE."""

import hashlib
import inspect
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    FirstBlockCacheConfig,
    QwenImageEditPlusPipeline,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from torch import Tensor

from services.device import find_device, finite, place, quiet, report_device_errors, set_attention
from services.errors import ConfigError, InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress, Scores, Sketch
from services.pixels import pixels_of, tensor_of
from services.qwen_edit.decoders import StillDecoder, TinyDecoder, shrunk, unpacked
from services.qwen_edit.guidance import (
    EDGES,
    Losses,
    LossGuidance,
    Reference,
    Update,
    Vgg16Features,
    fitted,
    resized,
    sobel_edges,
)
from services.qwen_edit.plan import QwenEditPlan
from services.qwen_edit.scores import perceptual_distance
from services.qwen_edit.settings import QwenEditSettings, Trunk
from services.schedulers import CapturingEuler
from services.weights.completeness import check_pipeline
from services.weights.files import resolve_file
from services.weights.local import resolve
from services.weights.loras.active import Loras
from services.worker import Outlet

STYLES_KEPT = 8
"""Number of first frames for which the Gram matrices are cached."""
LONGEST = 200
"""Largest aspect ratio, long side to short side, that Qwen2.5-VL's image processor accepts."""


class QwenEditModel:
    """A loaded checkpoint. It handles one request at a time: the pipeline and its scheduler hold a request's state."""

    def __init__(self, settings: QwenEditSettings, home: Path) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._pipe = _load(settings, home)
        repair_text_encoder(self._pipe.text_encoder)
        self._pipe.scheduler = CapturingEuler.from_config(self._pipe.scheduler.config)
        self._pipe.vae.requires_grad_(False)
        self.loras = Loras(settings, home, self._pipe, "qwen-image", {"": self._pipe.transformer})
        set_attention([self._pipe.transformer], settings.attention)
        place(self._pipe, self._device, settings.offload, in_order=settings.step_cache is None)
        if settings.step_cache is not None:
            self._pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=settings.step_cache.threshold))
        if settings.compile:
            self._pipe.transformer.compile_repeated_blocks(fullgraph=settings.step_cache is None)
        if self._device.type == "cuda":  # the gradients too must be reproducible
            torch.use_deterministic_algorithms(True, warn_only=True)

        self._decoder = self._guiding_decoder(home)
        self._vgg16 = None if settings.vgg16 is None else Vgg16Features(_find_trunk(settings.vgg16, home, "vgg16"))
        if self._vgg16 is not None:
            self._vgg16.to(self._device)
        metric = perceptual_distance(None if settings.lpips is None else _find_trunk(settings.lpips, home, "lpips"))
        self._lpips = None if metric is None else metric.to(self._device)
        self.measures = {name for name, net in (("vgg16", self._vgg16), ("lpips", self._lpips)) if net is not None}
        """Names of the loaded scoring networks."""
        self._styles: OrderedDict[tuple[bytes, int], Sequence[Tensor]] = OrderedDict()

    def check_shape(self, width: int, height: int, param: str) -> None:
        """Raise InvalidParameter if a picture is too long and narrow to be scaled down for the model."""
        reference = edit_plus.calculate_dimensions(self._settings.reference_area, width / height)
        seen = edit_plus.calculate_dimensions(self._settings.condition_area, width / height)
        if min(*reference, *seen) < 32 or max(seen) > LONGEST * min(seen):
            raise InvalidParameter(f"{param}: {width}x{height} is too long and narrow for this model", param=param)

    def edit(self, plan: QwenEditPlan, outlet: Outlet[Item]) -> None:
        """Edit `plan`'s picture, putting Progress, Sketches, Scores and Frames into `outlet`.

        Raises:
            InvalidParameter: a LoRA cannot be used.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step and before each guidance update.
        """
        task = f"{plan.width}x{plan.height} pixels"
        advice = "ask for a smaller max_area or a smaller ttlg.edge_size"
        with (
            report_device_errors(task, advice, self._release),
            self.loras.activate(plan.request.loras) as facts,
        ):
            for name, value in facts.items():
                outlet.put(Fact(name, value))
            self._edit(plan, outlet)

    def _release(self) -> None:
        """Reset the pipeline after an exception: clear its caches and move its models off the device."""
        self._pipe.maybe_free_model_hooks()
        self._pipe.scheduler.velocity = None

    def _edit(self, plan: QwenEditPlan, outlet: Outlet[Item]) -> None:
        request = plan.request
        edges = self._edges(plan)
        losses = self._losses(plan, edges)
        decode = self._decode_for(plan)
        last: deque[Update] = deque(maxlen=1)
        guidance = LossGuidance(request.ttlg, decode, losses, outlet.check, last.append)
        latents = self._denoise(plan, edges, guidance, outlet)
        pixels = self._pixels(latents, plan)
        outlet.check()
        if request.debug:
            self._put_sketches(plan, edges, pixels, outlet)
            for update in last:
                with torch.no_grad():
                    _put_sketch("before_guidance", update.before, outlet)
                    _put_sketch("after_guidance", decode(update.moved), outlet)
        outlet.put(self._scores(plan, losses, pixels))
        outlet.put(Frames(pixels, rate=plan.image.rate))

    def _denoise(
        self, plan: QwenEditPlan, edges: Tensor | None, guidance: LossGuidance, outlet: Outlet[Item]
    ) -> Tensor:
        """Return the denoised, normalised latents, (1, z, h, w)."""
        request, steps = plan.request, plan.request.steps
        outlet.put(Progress("denoise", 0, steps))

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            outlet.check()
            moved = guidance(pipe, step, timestep, tensors)
            outlet.put(Progress("denoise", step + 1, steps))
            return moved

        images = [_picture(_grey(edges))] if edges is not None else []
        images += [Image.fromarray(picture.pixels[0]) for picture in (plan.image, *plan.references)]
        guided = request.true_cfg_scale > 1
        # The pipeline reads these only from its module.
        edit_plus.VAE_IMAGE_SIZE = self._settings.reference_area
        edit_plus.CONDITION_IMAGE_SIZE = self._settings.condition_area
        latents = self._pipe(
            image=images,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt if guided else None,
            true_cfg_scale=request.true_cfg_scale,
            height=plan.height,
            width=plan.width,
            num_inference_steps=steps,
            # Generated on the CPU, so that the noise is the same on every device.
            generator=torch.Generator().manual_seed(plan.seed),
            output_type="latent",
            callback_on_step_end=on_step_end,
            max_sequence_length=1024,
        ).images
        return unpacked(finite(latents), plan.height // 8, plan.width // 8)

    @torch.no_grad()
    def _pixels(self, latents: Tensor, plan: QwenEditPlan) -> Pixels:
        """Decode latents as the pipeline does, resized to the plan's size: (1, h, w, 3) uint8."""
        vae = self._pipe.vae
        latents = latents[:, :, None].to(vae.dtype)
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
        scale = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
        picture = finite(vae.decode(latents / scale + mean, return_dict=False)[0][:, :, 0])
        made = _picture(picture.float() * 0.5 + 0.5)
        return np.array(made if made.size == plan.size else made.resize(plan.size, Image.Resampling.LANCZOS))[None]

    def _guiding_decoder(self, home: Path) -> StillDecoder | TinyDecoder:
        settings = self._settings
        dtype = getattr(torch, settings.decoder_dtype or settings.dtype)
        if settings.tiny_decoder is not None:
            file = resolve_file(settings.tiny_decoder, home, "tiny_decoder")
            return TinyDecoder(file, dtype, self._pipe.vae.config.z_dim).to(self._device)
        return StillDecoder(self._pipe.vae, dtype, save_memory=settings.save_memory)

    def _decode_for(self, plan: QwenEditPlan) -> Any:
        """Return a decoder from tokens to a picture in about [0, 1], as small as the enabled losses allow."""
        ttlg = plan.request.ttlg
        own = max(plan.width, plan.height)
        wanted = [
            (ttlg.edge_scale, ttlg.edge_size or own),
            (ttlg.gram_scale, ttlg.gram_size),
            (ttlg.temporal_scale, own),
        ]
        scale = max((size for weight, size in wanted if weight > 0), default=own) / own

        def decode(tokens: Tensor) -> Tensor:
            latents = unpacked(tokens, plan.height // 8, plan.width // 8)
            return self._decoder(shrunk(latents, scale)) * 0.5 + 0.5

        return decode

    def _edges(self, plan: QwenEditPlan) -> Tensor | None:
        """Return the target edges at the sampling size, (1, 1, height, width) in [0, 1]; None without edges."""
        if plan.edges is None:
            return None
        picture = self._tensor(plan.edges)
        if plan.request.edge_filter == "none":
            edges = (picture * picture.new_tensor([0.2126, 0.7152, 0.0722]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        else:
            edges = EDGES[plan.request.edge_filter](picture)
            edges = edges / edges.amax().clamp_min(1 / 255)
        return resized(edges, plan.height, plan.width)

    def _losses(self, plan: QwenEditPlan, edges: Tensor | None) -> Losses:
        reference = Reference(edges, self._style(plan), self._tensor(plan.image))
        return Losses(plan.request.ttlg, reference, _operator(plan), self._vgg16)

    @torch.no_grad()
    def _style(self, plan: QwenEditPlan) -> Sequence[Tensor] | None:
        """Return the Gram matrices of the clip's first frame, cached; None without VGG16."""
        if self._vgg16 is None:
            return None
        size = plan.request.ttlg.gram_size
        key = hashlib.sha256(plan.first.pixels.data).digest(), size
        if key not in self._styles:
            self._styles[key] = self._vgg16.grams(fitted(self._tensor(plan.first), size))
            if len(self._styles) > STYLES_KEPT:
                self._styles.popitem(last=False)
        self._styles.move_to_end(key)
        return self._styles[key]

    @torch.no_grad()
    def _scores(self, plan: QwenEditPlan, losses: Losses, pixels: Pixels) -> Scores:
        made = self._tensor(Frames(pixels))
        found: dict[str, float | None] = {f"{name}_loss": float(loss) for name, loss in losses.of(made).items()}
        if self._lpips is not None:
            for name, other in (("init", plan.first), ("prev", plan.image)):
                found[f"lpips_to_{name}"] = self._lpips.between(made, resized(self._tensor(other), *made.shape[-2:]))
        return Scores(0, **found)

    @torch.no_grad()
    def _put_sketches(self, plan: QwenEditPlan, edges: Tensor | None, pixels: Pixels, outlet: Outlet[Item]) -> None:
        if edges is None:
            return
        soft = _operator(plan)(self._tensor(Frames(pixels)))
        _put_sketch("target_edges", _grey(edges), outlet)
        _put_sketch("soft_edges", _grey(soft / soft.amax().clamp_min(1 / 255)), outlet)

    def _tensor(self, frames: Frames) -> Tensor:
        """Return the first frame as (1, 3, h, w) float32 in [0, 1], on the device."""
        return tensor_of(frames.pixels[:1], self._device)


def _operator(plan: QwenEditPlan) -> Callable[[Tensor], Tensor]:
    """Return the edge operator for the result: the one that extracts the target edges, or Sobel for an edge map."""
    return EDGES.get(plan.request.edge_filter, sobel_edges)


def _put_sketch(name: str, picture: Tensor, outlet: Outlet[Item]) -> None:
    outlet.put(Sketch(0, name, Frames(np.array(_picture(picture))[None])))


def _grey(edges: Tensor) -> Tensor:
    return edges.expand(-1, 3, -1, -1)


def _picture(picture: Tensor) -> Image.Image:
    """Convert (1, 3, h, w) in about [0, 1] to an image; values are clamped."""
    return Image.fromarray(pixels_of(picture)[0])


def _load(settings: QwenEditSettings, home: Path) -> QwenImageEditPlusPipeline:
    quiet()
    folder = resolve(settings.weights, home)
    try:
        check_pipeline(folder)
        pipe = QwenImageEditPlusPipeline.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), local_files_only=True
        )
    except (OSError, ValueError) as error:
        source = settings.weights.source
        raise ConfigError(f"weights: {source} is not a Qwen-Image-Edit-2509 checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def repair_text_encoder(text_encoder: Any) -> None:
    """Pass Qwen2.5-VL the token types that the pipeline omits; without them pictures lose their 2-D positions.

    Since transformers 5 the positions are computed from the token types; see https://github.com/huggingface/diffusers/issues/14194.
    """
    if "mm_token_type_ids" in inspect.signature(type(text_encoder).forward).parameters:
        text_encoder.register_forward_pre_hook(_add_token_types, with_kwargs=True)


def _add_token_types(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    ids = kwargs.get("input_ids")
    if ids is not None and kwargs.get("pixel_values") is not None and kwargs.get("mm_token_type_ids") is None:
        kwargs["mm_token_type_ids"] = (ids == module.config.image_token_id).int()
    return args, kwargs


def _find_trunk(trunk: Trunk, home: Path, param: str) -> Path | Literal["random"]:
    """Return the local file of a scoring network, downloaded on demand, or `random`. Raises ConfigError."""
    return "random" if trunk == "random" else resolve_file(trunk, home, param)
