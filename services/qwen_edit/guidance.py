"""Test-time loss guidance: losses on the picture that a sampler is heading for, and their gradients on its latents.

Pure torch, usable with any flow-matching pipeline of diffusers:

    guidance = LossGuidance(Guidance(lr=0.05), decode, Reference(edges=edges))
    pipe(..., callback_on_step_end=guidance)

Pictures here are (n, 3, h, w) float32, about [0, 1]. The idea is that of Universal Guidance (arXiv 2302.07121) and
FreeDoM (arXiv 2303.09833), with the denoiser's output held constant: the gradient goes through the decoder alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from services.errors import ConfigError, ModelFailed
from services.pixels import averaged
from services.qwen_edit.request import Guidance, LossKind
from services.tensors import read_weights

LUMA = (0.2126, 0.7152, 0.0722)
"""ITU-R BT.709."""
SOFT = 1e-3
"""Below it a magnitude is rounded off, so that its gradient exists at zero."""
STYLE_LAYERS = (3, 8, 15, 22)
"""relu1_2, relu2_2, relu3_3 and relu4_3 in torchvision's `vgg16().features`."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM_SEED = 16
LEAST_SIDE = 8
"""Pixels. Of less VGG16's last layer sees nothing."""
UNSEEN = 10
"""Without a velocity, only the last one in so many steps is guided: before, latents are mostly noise."""

Decode = Callable[[Tensor], Tensor]
"""Latents as the sampler has them → pictures, differentiable, of any size, and not clamped."""


def _luma(pictures: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=pictures.device, dtype=pictures.dtype).view(1, 3, 1, 1)
    return (pictures * weights).sum(1, keepdim=True)


def _magnitude(squared: Tensor) -> Tensor:
    return (squared + SOFT**2).sqrt() - SOFT


def _padded(pictures: Tensor) -> Tensor:
    """Repeat the outermost pixels once. By slices: on a GPU the gradient of F.pad's "replicate" depends on chance."""
    wider = torch.cat([pictures[..., :1], pictures, pictures[..., -1:]], -1)
    return torch.cat([wider[..., :1, :], wider, wider[..., -1:, :]], -2)


def sobel_edges(pictures: Tensor) -> Tensor:
    """Return the length of the luma's gradient, differentiable everywhere.

    Args:
        pictures: (n, 3, h, w) or (n, 1, h, w), about [0, 1].

    Returns:
        (n, 1, h, w), at least 0; a step from black to white is about 1.
    """
    luma = _luma(pictures) if pictures.shape[1] == 3 else pictures
    smooth, slope = luma.new_tensor([1.0, 2.0, 1.0]) / 4, luma.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]  # (2, 1, 3, 3)
    gradient = F.conv2d(_padded(luma), kernels)
    return _magnitude(gradient.square().sum(1, keepdim=True))


def laplacian_edges(pictures: Tensor) -> Tensor:
    """Return the absolute Laplacian (four neighbours) of the luma. Shapes and range as `sobel_edges`."""
    luma = _luma(pictures) if pictures.shape[1] == 3 else pictures
    kernel = luma.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    return _magnitude(F.conv2d(_padded(luma), kernel).square())


EDGES: Mapping[str, Callable[[Tensor], Tensor]] = {"sobel": sobel_edges, "laplacian": laplacian_edges}


def gram_matrix(features: Tensor) -> Tensor:
    """Return which channels fire together: (n, c, h, w) → (n, c, c), divided by c · h · w.

    Source: Gatys et al., Image Style Transfer Using Convolutional Neural Networks, CVPR 2016.
    """
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Return pictures in another size in pixels: averaged where they shrink, repeated where they grow."""
    if pictures.shape[-2:] == (height, width):
        return pictures
    if height <= pictures.shape[-2] and width <= pictures.shape[-1]:
        return averaged(pictures, height, width)
    return F.interpolate(pictures, (height, width), mode="nearest-exact")


def fitted(pictures: Tensor, longest: int | None) -> Tensor:
    """Return pictures shrunk until no side has more than `longest` pixels, and none of at least 8 fewer than 8."""
    height, width = pictures.shape[-2:]
    if longest is None or max(height, width) <= longest:
        return pictures
    scale = longest / max(height, width)
    height, width = (max(min(side, LEAST_SIDE), round(side * scale)) for side in (height, width))
    return resized(pictures, height, width)


def distance(ours: Tensor, theirs: Tensor, kind: LossKind) -> Tensor:
    """Return the mean difference, one number: squared, absolute, or sqrt(d² + 10⁻⁶) − 10⁻³."""
    difference = ours - theirs
    if kind == "mse":
        return difference.square().mean()
    if kind == "l1":
        return difference.abs().mean()
    return _magnitude(difference.square()).mean()


def _unit(edges: Tensor) -> Tensor:
    """Scale each map to a root mean square of 1: where edges are counts, how strong they are does not."""
    return edges / (edges.square().mean((1, 2, 3), keepdim=True) + SOFT**2).sqrt()


def edge_loss(edges: Tensor, target: Tensor, kind: LossKind = "mse") -> Tensor:
    """Return how far edges lie from a target, (n, 1, h, w) both, whatever the contrast of either.

    Both are scaled to unit root mean square; `mse` is then 2 − 2 · cosine, from 0 to 2, which neither a blank picture
    nor one strong edge can cheat.
    """
    return distance(_unit(edges), _unit(target), kind)


def gram_loss(grams: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Return |G − R|² / |R|², averaged over the layers: 0 is the same style, 1 as far as from no picture at all."""
    pairs = zip(grams, reference, strict=True)
    return torch.stack([(g - r).square().sum() / r.square().sum().clamp_min(1e-20) for g, r in pairs]).mean()


def temporal_loss(pictures: Tensor, previous: Tensor, kind: LossKind = "mse") -> Tensor:
    """Return how far a picture lies from the one before it, (n, 3, h, w) both."""
    return distance(pictures, previous, kind)


class Vgg16Features(nn.Module):
    """The first ten convolutions of VGG16, frozen, in float32.

    Args:
        source: a file with torchvision's weights (`features.0.weight` …), safetensors or .pth; or `random`, weights
            drawn from a fixed seed, whose Gram matrices still tell textures and colours apart.

    Raises:
        ConfigError: torchvision is not installed, or the file has other weights.
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
                layer.inplace = False  # what lies before it is a feature that is kept
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(n, 3, h, w) about [0, 1] → the features of the four layers, (n, 64 … 512, h/1 … h/8, w/1 … w/8)."""
        features = (pictures.to(self.mean.dtype) - self.mean) / self.std
        found: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in STYLE_LAYERS:
                found.append(features)
        return found

    def grams(self, pictures: Tensor) -> list[Tensor]:
        return [gram_matrix(features) for features in self(pictures)]


def randomise(layers: nn.Module) -> None:
    """Draw weights from a fixed seed, in the scale in which features keep theirs (He et al., arXiv 1502.01852)."""
    generator = torch.Generator().manual_seed(RANDOM_SEED)
    for weight in layers.parameters():
        std = math.sqrt(2 / weight[0].numel()) if weight.ndim > 1 else 0.0
        weight.data = torch.randn(weight.shape, generator=generator) * std


def trunk_weights(layers: nn.Module, file: Path, model: str) -> dict[str, Tensor]:
    """Return what `layers` take of a torchvision checkpoint's `features`. Raises ConfigError."""
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
    """What a picture is compared with. What is None is not compared."""

    edges: Tensor | None = None
    """(1, 1, h, w), at least 0, of any scale; resized to the picture's."""
    grams: Sequence[Tensor] | None = None
    """Of the first frame, by `Vgg16Features.grams`, at `gram_size`. Computed once for a clip."""
    previous: Tensor | None = None
    """(1, 3, h, w) in [0, 1]; resized to the picture's."""


class Losses:
    """The losses of a picture, by their names: `edge`, `gram`, `temporal`.

    Args:
        settings: sizes and the kind of difference.
        reference: what to compare with.
        edges: the operator that finds edges in a picture.
        vgg16: needed where `reference` has Gram matrices.
    """

    def __init__(
        self,
        settings: Guidance,
        reference: Reference,
        edges: Callable[[Tensor], Tensor] = sobel_edges,
        vgg16: Vgg16Features | None = None,
    ) -> None:
        if reference.grams is not None and vgg16 is None:
            raise ValueError("Gram matrices are compared through vgg16, and there is none")
        self._settings = settings
        self._reference = reference
        self._edges = edges
        self._vgg16 = vgg16

    def of(self, pictures: Tensor, names: Sequence[str] = ("edge", "gram", "temporal")) -> dict[str, Tensor]:
        """Return those losses in `names` for which there is a reference. (1, 3, h, w) about [0, 1]."""
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
    """A scheduler that remembers what the model has last put out."""

    velocity: Tensor | None


@dataclass(frozen=True)
class Update:
    """What one update has found and done."""

    step: int
    """The denoising step, from 0."""
    losses: Mapping[str, float]
    """Before it."""
    before: Tensor
    """The picture that was compared, (n, 3, h, w) about [0, 1], detached."""
    moved: Tensor
    """The latents after it, as `decode` takes them, detached."""


class LossGuidance:
    """A `callback_on_step_end` that moves the latents down the gradient of the losses.

    The picture the sampler is heading for is x0 = x − σ·v where the scheduler remembers the velocity v. Moving x0 by d
    with the noise held constant moves x by (1 − σ)·d. Without a velocity the latents themselves are taken for x0, and
    only the last tenth of the steps (or `last_steps`) is guided.

    Args:
        settings: see Guidance.
        decode: latents as the callback gets them → pictures.
        losses: what is compared with what.
        between: called before each update; what it raises ends the sampling.
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
        """Guide behind step `step`, counted from 0, of `pipe.num_timesteps`; returns the latents in their own dtype."""
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
        """Whether a step, counted from 0, of `total` is guided."""
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
        """The gradient of the weighted losses, the losses, and the picture that they are of."""
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
