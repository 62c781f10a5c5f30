"""InfiniteYou's identity conditioning for Flux: a ControlNet attends to tokens computed from a face embedding.

Source: InfiniteYou: Flexible Photo Recrafting While Preserving Your Identity, arXiv 2503.16418.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import FluxControlNetModel, FluxTransformer2DModel
from PIL import Image, ImageDraw
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from services.errors import ConfigError
from services.frames import Face, Features
from services.weights.completeness import check_network

CONTROLNET = "InfuseNetModel"
PROJECTION = "image_proj_model.safetensors"
PICKLED_PROJECTION = "image_proj_model.bin"

GUIDANCE = 1.0
"""The distilled guidance scale that InfiniteYou's ControlNet was trained with, independent of the transformer's."""

EMBEDDING = 512
"""Length of a face's embedding (`Face.embedding`)."""

NOSE = 2
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""RGB colours of the left eye, the right eye, the nose, the left and the right corner of the mouth."""
LIMB_HALF_WIDTH = 4
"""Half the width of a line from the nose to another key point, in pixels."""
LIMB_BRIGHTNESS = 0.6
"""Brightness of these lines relative to the colour of their key point."""
POINT_RADIUS = 10
"""Radius of a key point's disc, in pixels."""

STUMBLES = (OSError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""Errors that reading a file of another kind may raise."""


class IdentityControlNet(FluxControlNetModel):
    """A Flux ControlNet that attends to identity tokens instead of the prompt."""

    _repeated_blocks = (
        "FluxTransformerBlock",
        "FluxSingleTransformerBlock",
    )  # diffusers' class declares no repeated blocks to compile

    tokens: Tensor | None = None
    """Identity tokens of the current face, (1, n, joint_attention_dim); None without a face."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run FluxControlNetModel on `tokens` instead of the prompt; skip it if the conditioning scale is 0."""
        if kwargs["conditioning_scale"] == 0:
            return None, None
        text = kwargs["encoder_hidden_states"]
        tokens = self.tokens.to(text).expand(text.shape[0], -1, -1)
        kwargs |= {"encoder_hidden_states": tokens, "txt_ids": text.new_zeros(tokens.shape[1], 3)}
        if kwargs["guidance"] is not None:
            kwargs["guidance"] = torch.full_like(kwargs["guidance"], GUIDANCE)
        return super().forward(*args, **kwargs)


class Resampler(nn.Module):
    """A perceiver: learned queries attend to the face's embedding and to each other, layer by layer.

    (b, n, embedding_dim) → (b, queries, output_dim). The parameters are named as in InfiniteYou's file.
    Source: Flamingo: a Visual Language Model for Few-Shot Learning, arXiv 2204.14198.
    """

    def __init__(
        self, *, dim: int, depth: int, heads: int, queries: int, output_dim: int, embedding_dim: int = 512
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([LatentAttention(dim, heads), _feed_forward(dim)]) for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Resampler":
        """Build the network with the parameters `tensors`. Raises KeyError or RuntimeError if they do not fit."""
        depth = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
        net = cls(
            dim=tensors["latents"].shape[2],
            depth=depth,
            heads=tensors["layers.0.0.to_q.weight"].shape[0] // LatentAttention.HEAD_DIM,
            queries=tensors["latents"].shape[1],
            output_dim=tensors["proj_out.weight"].shape[0],
            embedding_dim=tensors["proj_in.weight"].shape[1],
        )
        net.load_state_dict(tensors)
        return net

    def forward(self, embeddings: Tensor) -> Tensor:
        given = self.proj_in(embeddings)
        latents = self.latents.expand(len(given), -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(given, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class LatentAttention(nn.Module):
    """Cross-attention: latents attend to the input and to themselves."""

    HEAD_DIM = 64

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        inner = heads * self.HEAD_DIM
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, given: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat([self.norm1(given), latents], 1)).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(*(self._heads(part) for part in (self.to_q(latents), keys, values)))
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, tensor: Tensor) -> Tensor:
        """(b, n, heads * dim) → (b, heads, n, dim)."""
        return tensor.unflatten(-1, (-1, self.HEAD_DIM)).transpose(1, 2)


def _feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
    )


class Identity:
    """The loaded ControlNet and resampler, which computes a face's identity tokens."""

    def __init__(self, folder: Path, transformer: FluxTransformer2DModel, device: torch.device) -> None:
        """Load the networks on the device in the transformer's dtype. Raises ConfigError if they do not fit it."""
        self._resampler = _resampler(folder).to(device, transformer.dtype)
        try:
            check_network(folder / CONTROLNET, IdentityControlNet)
            self.controlnet = IdentityControlNet.from_pretrained(
                folder / CONTROLNET, dtype=transformer.dtype, local_files_only=True
            ).to(device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"identity: {CONTROLNET} cannot be loaded as a ControlNet of Flux ({error})") from error
        read = self._resampler.proj_in.in_features
        if read != EMBEDDING:
            raise ConfigError(
                f"identity: {PROJECTION} projects embeddings of {read} numbers, but those of faces have {EMBEDDING}"
            )
        made, wanted = self._resampler.proj_out.out_features, self.controlnet.config.joint_attention_dim
        if made != wanted:
            raise ConfigError(f"identity: the tokens have {made} channels, but the ControlNet needs {wanted}")
        for name in ("in_channels", "num_attention_heads", "attention_head_dim", "pooled_projection_dim"):
            own, others = self.controlnet.config[name], transformer.config[name]
            if own != others:
                raise ConfigError(f"identity: the ControlNet has {name} {own}, but the transformer has {others}")

    @torch.no_grad()
    def tokens(self, face: Face) -> Tensor:
        """Return the identity tokens of a face, (1, queries, joint_attention_dim)."""
        embedding = torch.tensor(face.embedding).to(self.controlnet.device, self.controlnet.dtype)
        return self._resampler(embedding[None, None])


def draw_pose(pose: Face | None, width: int, height: int) -> Image.Image:
    """Draw the key points of a face in the style that InfiniteYou's ControlNet was trained with.

    Args:
        pose: the face; its `size` is known. None draws nothing: the picture is black, and the model chooses the pose.
        width: width of the picture, in pixels.
        height: height of the picture, in pixels.
    """
    if pose is None:
        return Image.new("RGB", (width, height))
    return draw_points(place_points(pose, width, height), width, height)


def place_points(face: Face, width: int, height: int) -> Features:
    """Return where the key points of a face lie when its photo is placed on a picture, (5, 2), in pixels.

    The photo keeps its proportions: it is scaled to the picture's shorter side and centred, as InfiniteYou does. Where
    this would cut key points off, it is moved until they lie inside.

    Args:
        face: the face; its `size` is known.
        width: width of the picture, in pixels.
        height: height of the picture, in pixels.

    Raises:
        ValueError: the size of the photo is unknown.
    """
    if face.size is None:
        raise ValueError("the size of the face's photo is unknown")
    photo, picture = np.array(face.size, np.float64), np.array([width, height], np.float64)
    scale = width / photo[0] if width <= height else height / photo[1]
    points = (face.keypoints - 0.5) * photo * scale + picture / 2
    inside = ((face.keypoints >= 0) & (face.keypoints <= 1)).all()
    if inside:
        points += np.maximum(0, -points.min(0)) - np.maximum(0, points.max(0) - picture)
    return points.astype(np.float32)


def draw_points(keypoints: Features, width: int, height: int) -> Image.Image:
    """Draw key points, (5, 2) pixels, on a black picture of `width` x `height` pixels."""
    points = [(float(x), float(y)) for x, y in keypoints]
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for index, point in enumerate(points):
        if index != NOSE:
            colour = tuple(int(level * LIMB_BRIGHTNESS) for level in COLOURS[index])
            draw.polygon(_ellipse(point, points[NOSE]), fill=colour)
    # PIL rounds the centre of a disc down, which changes the proportions of a small face by more than a hundredth.
    pixels = np.array(picture)
    rows, columns = np.ogrid[:height, :width]
    for (x, y), colour in zip(points, COLOURS, strict=True):
        pixels[(columns - x) ** 2 + (rows - y) ** 2 <= POINT_RADIUS**2] = colour
    return Image.fromarray(pixels)


def _ellipse(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Return a thin ellipse from one point to the other as a polygon of x, y in pixels."""
    across, down = (end[0] - start[0]) / 2, (end[1] - start[1]) / 2
    half = math.hypot(across, down) or 1.0
    corners = []
    for degree in range(0, 360, 5):
        along, aside = math.cos(math.radians(degree)), LIMB_HALF_WIDTH / half * math.sin(math.radians(degree))
        corners.append(
            (start[0] + across + along * across - aside * down, start[1] + down + along * down + aside * across)
        )
    return corners


def _resampler(folder: Path) -> Resampler:
    try:
        if (folder / PROJECTION).is_file():
            tensors = load_file(folder / PROJECTION)
        else:
            tensors = torch.load(folder / PICKLED_PROJECTION, map_location="cpu", weights_only=True)["image_proj"]
        return Resampler.of(tensors).eval()
    except STUMBLES as error:
        raise ConfigError(f"identity: {PROJECTION} cannot be loaded as a face projection ({error})") from error
