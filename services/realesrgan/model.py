"""Inference with Real-ESRGAN: batches of frames pass through the network, large frames in tiles."""

from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from services.device import find_device, finite, report_device_errors
from services.errors import ConfigError
from services.frames import Pixels
from services.pixels import averaged, pixels_of, tensor_of
from services.realesrgan.settings import SHIPPED, RealEsrganSettings
from services.weights.files import resolve_file
from services.weights.local import resolve
from services.weights.web_file import WebFile

SUFFIXES = (".safetensors", ".pth")
FARTHEST = 64
"""Largest default margin of a tile, in pixels."""


class Tile(NamedTuple):
    """A part of a picture and the larger region from which it is computed, in pixels of the picture."""

    top: int
    bottom: int
    left: int
    right: int
    seen: tuple[int, int, int, int]
    """Top, bottom, left and right of the region that the network sees: the tile and its margin."""


class RealEsrganModel:
    """A loaded network."""

    def __init__(self, settings: RealEsrganSettings, home: Path) -> None:
        self._settings = settings
        self._device = find_device(settings.device)
        self._dtype = getattr(torch, settings.dtype)
        loaded = _load(settings, home)
        self.scale = loaded.scale
        """Factor by which the network itself enlarges width and height."""
        self._multiple = loaded.size_requirements.multiple_of
        net = loaded.model.requires_grad_(False).eval()
        self._margin = min(reach(net), FARTHEST) if settings.tile_margin is None else settings.tile_margin
        net = net.to(self._device, self._dtype, memory_format=torch.channels_last)
        self._net = torch.compile(net) if settings.compile else net

    @torch.no_grad()
    def upscale(self, pixels: Pixels, scale: int, check: Callable[[], None]) -> Pixels:
        """Enlarge frames.

        Args:
            pixels: (n, h, w, 3) uint8.
            scale: factor for width and height; at most the network's own.
            check: called before each tile; an exception from it ends the work and propagates.

        Returns:
            (n, scale · h, scale · w, 3) uint8.

        Raises:
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
        """
        height, width = pixels.shape[1:3]
        made = torch.empty((len(pixels), height * scale, width * scale, 3), dtype=torch.uint8).numpy()
        with report_device_errors(f"{width}x{height} pixels", "set a smaller tile or batch"):
            for first in range(0, len(pixels), self._settings.batch):
                batch = slice(first, first + self._settings.batch)
                given = tensor_of(pixels[batch], self._device, self._dtype)
                made[batch] = pixels_of(self._enlarged(given, scale, check))
        return made

    def _enlarged(self, pictures: Tensor, scale: int, check: Callable[[], None]) -> Tensor:
        """Enlarge pictures tile by tile: (n, 3, h, w) → (n, 3, scale · h, scale · w) float32."""
        n, _, height, width = pictures.shape
        whole = torch.empty((n, 3, height * self.scale, width * self.scale), device=pictures.device)
        for tile in tiles(height, width, self._settings.tile, self._margin):
            check()
            top, bottom, left, right = tile.seen
            seen = self._passed(pictures[..., top:bottom, left:right])
            inner = seen[
                ...,
                (tile.top - top) * self.scale : (tile.bottom - top) * self.scale,
                (tile.left - left) * self.scale : (tile.right - left) * self.scale,
            ]
            whole[
                ...,
                tile.top * self.scale : tile.bottom * self.scale,
                tile.left * self.scale : tile.right * self.scale,
            ] = inner
        finite(whole)
        return whole if scale == self.scale else averaged(whole.clamp(0, 1), height * scale, width * scale)

    def _passed(self, part: Tensor) -> Tensor:
        """Run the network on a part, (n, 3, h, w), padded to the multiple of pixels that the network needs."""
        height, width = part.shape[-2:]
        below, beside = -height % self._multiple, -width % self._multiple
        part = F.pad(part, (0, beside, 0, below), mode="replicate").contiguous(memory_format=torch.channels_last)
        return self._net(part)[..., : height * self.scale, : width * self.scale].float()


def tiles(height: int, width: int, side: int, margin: int) -> Iterator[Tile]:
    """Yield tiles of at most `side` pixels, each with a margin of `margin` pixels; `side` 0 gives one tile."""
    down, across = side or height, side or width
    for top in range(0, height, down):
        bottom = min(top + down, height)
        for left in range(0, width, across):
            right = min(left + across, width)
            seen = max(0, top - margin), min(height, bottom + margin), max(0, left - margin), min(width, right + margin)
            yield Tile(top, bottom, left, right, seen)


def reach(net: nn.Module) -> int:
    """Return an upper bound of the receptive field's radius in pixels, as if all convolutions were in sequence."""
    return sum(max(layer.kernel_size) // 2 for layer in net.modules() if isinstance(layer, nn.Conv2d))


def _load(settings: RealEsrganSettings, home: Path) -> ImageModelDescriptor:
    path = _file(settings, home)
    try:
        loaded = ModelLoader(device="cpu").load_from_file(path)
    except (UnsupportedModelError, UnpicklingError, OSError, ValueError, RuntimeError, LookupError, EOFError) as error:
        raise ConfigError(f"weights: {path.name} is not a supported network ({error})", param="weights") from error
    if not isinstance(loaded, ImageModelDescriptor):
        raise ConfigError(f"weights: {path.name} must map RGB pictures to RGB pictures", param="weights")
    channels = loaded.input_channels, loaded.output_channels
    if channels != (3, 3):
        raise ConfigError(
            f"weights: {path.name} must map 3 channels to 3 channels, but maps {channels[0]} to {channels[1]}",
            param="weights",
        )
    return loaded


def _file(settings: RealEsrganSettings, home: Path) -> Path:
    if settings.weights is None:
        return SHIPPED
    if isinstance(settings.weights, WebFile):
        return resolve_file(settings.weights, home, "weights")
    folder = resolve(settings.weights, home)
    if settings.file is not None:
        path = folder / settings.file
        if not path.is_file():
            raise ConfigError(f"file: there is no {settings.file} in {settings.weights.source}", param="file")
        return path
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        raise ConfigError(
            f"file: must be set, because {settings.weights.source} has {len(found)} weights files, not one",
            param="file",
        )
    return found[0]
