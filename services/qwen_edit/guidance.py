"""Test-time loss guidance: moves a sampler's latents down the gradient of losses on the predicted picture.

Pure torch, usable with any flow-matching pipeline of diffusers:

    guidance = LossGuidance(Guidance(lr=0.05), decode, Reference(edges=edges))
    pipe(..., callback_on_step_end=guidance)

Pictures are (n, 3, h, w) float32, about [0, 1]. The method follows Universal Guidance (arXiv 2302.07121) and FreeDoM
(arXiv 2303.09833), with the denoiser's output held constant: the gradient flows through the decoder alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from services.errors import ConfigError, ModelFailed
from services.pixels import averaged
from services.qwen_edit.request import Guidance, LossKind
from services.tensors import read_weights

LUMA = (0.2126, 0.7152, 0.0722)
"""Luma weights of red, green and blue (ITU-R BT.709)."""
SOFT = 1e-3
"""Magnitude below which the square root is smoothed, so that its gradient exists at zero."""
STYLE_LAYERS = (3, 8, 15, 22)
"""Indices of relu1_2, relu2_2, relu3_3 and relu4_3 in torchvision's `vgg16().features`."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM_SEED = 16
LEAST_SIDE = 8
"""Minimum side of a picture for VGG16's last layer, in pixels."""
UNSEEN = 10
"""Without a velocity only the last 1/10 of the steps is guided, because earlier latents are mostly noise."""

Decode = Callable[[Tensor], Tensor]
"""Differentiable decoder from the sampler's latents to pictures of any size, not clamped."""


def _luma(pictures: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=pictures.device, dtype=pictures.dtype).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)


def _magnitude(squared: Tensor) -> Tensor:
    return (squared + SOFT**2).sqrt() - SOFT


def _padded(pictures: Tensor) -> Tensor:
    """Pad by one pixel, replicating the border. Not F.pad: on a GPU the gradient of "replicate" is nondeterministic."""
    wider = torch.cat([pictures[..., :1], pictures, pictures[..., -1:]], -1)
    return torch.cat([wider[..., :1, :], wider, wider[..., -1:, :]], -2)


def sobel_edges(pictures: Tensor) -> Tensor:
    """Return the magnitude of the luma's Sobel gradient, differentiable everywhere.

    Args:
        pictures: (n, 3, h, w) or (n, 1, h, w), about [0, 1].

    Returns:
        (n, 1, h, w), not negative; a step from black to white gives about 1.
    """
    luma = _luma(pictures) if pictures.shape[1] == 3 else pictures
    smooth, slope = luma.new_tensor([1.0, 2.0, 1.0]) / 4, luma.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]  # (2, 1, 3, 3)
    gradient = F.conv2d(_padded(luma), kernels)
    return _magnitude(gradient.square().sum(1, keepdim=True))


def laplacian_edges(pictures: Tensor) -> Tensor:
    """Return the absolute Laplacian (four neighbours) of the luma. Shapes as in `sobel_edges`."""
    luma = _luma(pictures) if pictures.shape[1] == 3 else pictures
    kernel = luma.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    return _magnitude(F.conv2d(_padded(luma), kernel).square())


EDGES: Mapping[str, Callable[[Tensor], Tensor]] = {"sobel": sobel_edges, "laplacian": laplacian_edges}
"""Edge operators by name."""


def gram_matrix(features: Tensor) -> Tensor:
    """Return the Gram matrix of the channels: (n, c, h, w) → (n, c, c), divided by c · h · w.

    Source: Gatys et al., Image Style Transfer Using Convolutional Neural Networks, CVPR 2016.
    """
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Return pictures resized to pixels `height` x `width`: by averaging to shrink, by nearest neighbour to grow."""
    if pictures.shape[-2:] == (height, width):
        return pictures
    if height <= pictures.shape[-2] and width <= pictures.shape[-1]:
        return averaged(pictures, height, width)
    return F.interpolate(pictures, (height, width), mode="nearest-exact")


def fitted(pictures: Tensor, longest: int | None) -> Tensor:
    """Return pictures scaled down to at most `longest` pixels per side; a side does not shrink below 8 pixels."""
    height, width = pictures.shape[-2:]
    if longest is None or max(height, width) <= longest:
        return pictures
    scale = longest / max(height, width)
    height, width = (max(min(side, LEAST_SIDE), round(side * scale)) for side in (height, width))
    return resized(pictures, height, width)


def distance(ours: Tensor, theirs: Tensor, kind: LossKind) -> Tensor:
    """Return the mean difference, a scalar: squared, absolute, or Charbonnier, sqrt(d² + 10⁻⁶) − 10⁻³."""
    difference = ours - theirs
    if kind == "mse":
        return difference.square().mean()
    if kind == "l1":
        return difference.abs().mean()
    return _magnitude(difference.square()).mean()


def _unit(edges: Tensor) -> Tensor:
    """Scale each edge map to a root mean square of 1, so that only the positions of edges count, not their strength."""
    return edges / (edges.square().mean((1, 2, 3), keepdim=True) + SOFT**2).sqrt()


def edge_loss(edges: Tensor, target: Tensor, kind: LossKind = "mse") -> Tensor:
    """Return the distance of edges from a target, (n, 1, h, w) both, independent of their contrast.

    Both are scaled to unit root mean square; `mse` is then 2 − 2 · cosine, from 0 to 2, so that neither a blank picture
    nor one strong edge scores well.
    """
    return distance(_unit(edges), _unit(target), kind)


def gram_loss(grams: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Return |G − R|² / |R|², averaged over the layers: 0 means the same style, 1 is the loss of G = 0."""
    pairs = zip(grams, reference, strict=True)
    return torch.stack([(g - r).square().sum() / r.square().sum().clamp_min(1e-20) for g, r in pairs]).mean()


def temporal_loss(pictures: Tensor, previous: Tensor, kind: LossKind = "mse") -> Tensor:
    """Return the distance of a picture from the previous one, (n, 3, h, w) both."""
    return distance(pictures, previous, kind)


class Vgg16Features(nn.Module):
    """The first ten convolutions of VGG16, frozen, in float32.

    Args:
        source: a file with torchvision's weights (`features.0.weight` …), safetensors or .pth; or `random`: weights
            drawn from a fixed seed, whose Gram matrices still distinguish textures and colours.

    Raises:
        ConfigError: torchvision is not installed, or the file does not contain these weights.
    """

    def __init__(self, source: Path | str) -> None:
        super().__init__()
        try:
            from torchvision.models import vgg16
        except ImportError as error:
            raise ConfigError(
                "vgg16: the Gram loss needs torchvision: pip install torchvision", param="vgg16"
            ) from error
        with torch.device("meta"):
            self.layers = vgg16(weights=None).features[: STYLE_LAYERS[-1] + 1]
        self.layers.to_empty(device="cpu")
        if source == "random":
            randomise(self.layers)
        else:
            self.layers.load_state_dict(trunk_weights(self.layers, Path(source), "vgg16"))
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the layer's input is a feature that is still used
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return the features of the four style layers: (n, 3, h, w) → (n, 64 … 512, h/1 … h/8, w/1 … w/8)."""
        features = (pictures.to(self.mean.dtype) - self.mean) / self.std
        found: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in STYLE_LAYERS:
                found.append(features)
        return found

    def grams(self, pictures: Tensor) -> list[Tensor]:
        """Return the Gram matrices of the four style layers, (n, c, c) each, for pictures (n, 3, h, w)."""
        return [gram_matrix(features) for features in self(pictures)]


def randomise(layers: nn.Module) -> None:
    """Draw weights from a fixed seed, scaled to preserve the features' variance (He et al., arXiv 1502.01852)."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    for weight in layers.parameters():
        std = math.sqrt(2 / weight[0].numel()) if weight.ndim > 1 else 0.0
        weight.data = torch.randn(weight.shape, generator=generator) * std


def trunk_weights(layers: nn.Module, file: Path, model: str) -> dict[str, Tensor]:
    """Return the weights of `layers` from a torchvision checkpoint's `features`, in float32.

    Raises:
        ConfigError: the file lacks a weight or has it in another shape.
    """
    state = read_weights(file, model)
    found = {name: state.get(f"features.{name}") for name in layers.state_dict()}
    for name, weight in layers.state_dict().items():
        given = found[name]
        if given is None or given.shape != weight.shape:
            shape = "missing" if given is None else f"of the shape {tuple(given.shape)}"
            raise ConfigError(
                f"{model}: {file} is not torchvision's checkpoint: features.{name} is {shape}", param=model
            )
    return {name: weight.float() for name, weight in found.items() if weight is not None}


@dataclass(frozen=True)
class Reference:
    """References for the losses of a picture. A field that is None disables its loss."""

    edges: Tensor | None = None
    """Target edges, (1, 1, h, w), not negative, of any scale; resized to the picture."""
    grams: Sequence[Tensor] | None = None
    """Gram matrices of the first frame, from `Vgg16Features.grams` at `gram_size`; computed once per clip."""
    previous: Tensor | None = None
    """Previous frame, (1, 3, h, w) in [0, 1]; resized to the picture."""


class Losses:
    """The losses of a picture, by their names: `edge`, `gram`, `temporal`.

    Args:
        settings: sizes and the kind of difference.
        reference: the references of the losses.
        edges: operator that extracts edges from a picture.
        vgg16: required if `reference` has Gram matrices.
    """

    def __init__(
        self,
        settings: Guidance,
        reference: Reference,
        edges: Callable[[Tensor], Tensor] = sobel_edges,
        vgg16: Vgg16Features | None = None,
    ) -> None:
        if reference.grams is not None and vgg16 is None:
            raise ValueError("the Gram loss needs vgg16, but it is None")
        self._settings = settings
        self._reference = reference
        self._edges = edges
        self._vgg16 = vgg16

    def of(self, pictures: Tensor, names: Sequence[str] = ("edge", "gram", "temporal")) -> dict[str, Tensor]:
        """Return the losses in `names` that have a reference, for pictures (1, 3, h, w) in about [0, 1]."""
        settings, reference = self._settings, self._reference
        found: dict[str, Tensor] = {}
        if "edge" in names and reference.edges is not None:
            edges = self._edges(fitted(pictures, settings.edge_size))
            found["edge"] = edge_loss(edges, resized(reference.edges, *edges.shape[-2:]), settings.loss)
        if "gram" in names and reference.grams is not None and self._vgg16 is not None:
            found["gram"] = gram_loss(self._vgg16.grams(fitted(pictures, settings.gram_size)), reference.grams)
        if "temporal" in names and reference.previous is not None:
            previous = resized(reference.previous, *pictures.shape[-2:])
            found["temporal"] = temporal_loss(pictures, previous, settings.loss)
        return found


@runtime_checkable
class Remembering(Protocol):
    """A scheduler that keeps the model's last output."""

    velocity: Tensor | None
    """The model's last output; None before the first step."""


@dataclass(frozen=True)
class Update:
    """Losses, picture and latents of one guidance update."""

    step: int
    """Index of the denoising step, from 0."""
    losses: Mapping[str, float]
    """Losses by name, before the update."""
    before: Tensor
    """The decoded picture before the update, (n, 3, h, w) about [0, 1], detached."""
    moved: Tensor
    """The latents after the update, in the form that `decode` expects, detached."""


class LossGuidance:
    """A `callback_on_step_end` that moves the latents down the gradient of the losses.

    If the scheduler keeps the velocity v, the predicted picture is x0 = x − σ·v. Moving x0 by d with the noise held
    constant moves x by (1 − σ)·d. Without a velocity the latents themselves are used as x0, and only the last tenth of
    the steps (or `last_steps`) is guided.

    Args:
        settings: strength and schedule of the guidance.
        decode: differentiable decoder from the callback's latents to pictures.
        losses: the losses to reduce.
        between: called before each update; an exception from it ends the sampling and propagates.
        told: called with each update.

    Raises (from the call):
        ModelFailed: a loss or a gradient is not finite, or no gradient can flow.
    """

    def __init__(
        self,
        settings: Guidance,
        decode: Decode,
        losses: Losses,
        between: Callable[[], None] = lambda: None,
        told: Callable[[Update], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._decode = decode
        self._losses = losses
        self._between = between
        self._told = told
        scales = {"edge": settings.edge_scale, "gram": settings.gram_scale, "temporal": settings.temporal_scale}
        self._scales = {name: scale for name, scale in scales.items() if scale > 0}

    def __call__(self, pipe: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Guide after step `step`, counted from 0, of `pipe.num_timesteps`; return the latents in their own dtype."""
        scheduler = pipe.scheduler
        velocity = scheduler.velocity if isinstance(scheduler, Remembering) else None
        if not self._scales or not self.guides(step, pipe.num_timesteps, knows_velocity=velocity is not None):
            return {}
        latents = tensors["latents"]
        if torch.is_inference_mode_enabled() or latents.is_inference():
            raise ModelFailed(
                "guidance: no gradient can flow under torch.inference_mode(); call the pipeline under torch.no_grad()"
            )
        x = latents.float()
        sigma = scheduler.sigmas[scheduler.step_index].to(x) if velocity is not None else x.new_zeros(())
        x0 = x if velocity is None else x - sigma * velocity.float()
        moved = self.descended(x0, step)
        return {"latents": (x + (1 - sigma) * (moved - x0)).to(latents.dtype)}

    def guides(self, step: int, total: int, *, knows_velocity: bool = True) -> bool:
        """Return whether step `step` of `total`, counted from 0, is guided."""
        settings = self._settings
        last_steps = settings.last_steps or (total if knows_velocity else max(1, total // UNSEEN))
        first = max(settings.start_step, total - last_steps)
        last = total - 1 if settings.end_step is None else settings.end_step
        return first <= step <= last and (step - first) % settings.every == 0

    def descended(self, x0: Tensor, step: int = 0) -> Tensor:
        """Return x0, (n, …) float32, after `inner_steps` updates of root mean square `lr` each."""
        for _ in range(self._settings.inner_steps):
            self._between()
            gradient, values, pictures = self._gradient(x0, step)
            size = gradient.square().mean(tuple(range(1, gradient.ndim)), keepdim=True).sqrt()
            x0 = x0.detach() - self._settings.lr * gradient / size.clamp_min(torch.finfo(size.dtype).tiny)
            self._told(Update(step, values, pictures, x0))
        return x0

    def _gradient(self, x0: Tensor, step: int) -> tuple[Tensor, Mapping[str, float], Tensor]:
        """Return the gradient of the weighted losses, the losses by name, and the decoded picture."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            pictures = self._decode(leaf).float()
            found = self._losses.of(pictures, tuple(self._scales))
            if not found:
                return torch.zeros_like(leaf), {}, pictures.detach()
            total = torch.stack([self._scales[name] * loss for name, loss in found.items()]).sum()
            if not total.requires_grad:
                raise ModelFailed("guidance: no gradient can flow: the decoded picture is cut off from its latents")
            values = {name: float(loss.detach()) for name, loss in found.items()}
            for name, value in values.items():
                if not math.isfinite(value):
                    raise ModelFailed(f"guidance: the {name} loss is {value} at step {step}")
            (gradient,) = torch.autograd.grad(total, leaf)
        if not torch.isfinite(gradient).all():
            raise ModelFailed(f"guidance: the gradient is not finite at step {step}")
        return gradient, values, pictures.detach()
