"""MTCNN: a cascade of three small networks, each of which refines the candidates of the one before.

Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks,
arXiv 1604.02878. The weights next to this file are those of facenet-pytorch 2.6.0 (MIT). The results equal
facenet-pytorch's to within rounding, except at the picture's edges: there a crop is padded, as in the authors' code,
while facenet-pytorch stretches the visible part.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from services.frames import Pixels
from services.instantid.faces import Found
from services.instantid.settings import MtcnnSettings

WEIGHTS = Path(__file__).with_name("mtcnn.safetensors")
CELL, STRIDE = 12, 2
"""Side of the first network's window and its stride, in pixels."""
BATCH = 256
"""Number of crops per forward pass."""
BLACK = -127.5 / 128
"""Normalised value of a black pixel."""


class Columns(nn.Module):
    """Flattens (n, c, h, w) column by column, the order that the weights were trained with."""

    def forward(self, features: Tensor) -> Tensor:
        return features.transpose(1, 3).flatten(1)


class Net(nn.Module):
    """Shared layers followed by one head per output."""

    def __init__(self, layers: list[nn.Module], **heads: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(heads)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the probability of a face, (n, ...), and the outputs of the other heads, (n, channels, ...).

        Args:
            pixels: (n, 3, h, w) float32 in [-1, 1].
        """
        features = self.layers(pixels)
        face, *rest = (head(features) for head in self.heads.values())
        return face.softmax(1)[:, 1], *rest


def proposal_net() -> Net:
    """Build P-Net: input is the whole picture, scanned in windows of 12 x 12 pixels with stride 2."""
    layers = [*_conv(3, 10, 3), _pool(2), *_conv(10, 16, 3), *_conv(16, 32, 3)]
    return Net(layers, face=nn.Conv2d(32, 2, 1), box=nn.Conv2d(32, 4, 1))


def refinement_net() -> Net:
    """Build R-Net: input is crops of 24 x 24 pixels."""
    layers = [*_conv(3, 28, 3), _pool(3), *_conv(28, 48, 3), _pool(3), *_conv(48, 64, 2)]
    layers += [Columns(), nn.Linear(576, 128), nn.PReLU(128)]
    return Net(layers, face=nn.Linear(128, 2), box=nn.Linear(128, 4))


def output_net() -> Net:
    """Build O-Net: input is crops of 48 x 48 pixels; it also predicts the key points."""
    layers = [*_conv(3, 32, 3), _pool(3), *_conv(32, 64, 3), _pool(3), *_conv(64, 64, 3), _pool(2), *_conv(64, 128, 2)]
    layers += [Columns(), nn.Linear(1152, 256), nn.PReLU(256)]
    return Net(layers, face=nn.Linear(256, 2), box=nn.Linear(256, 4), points=nn.Linear(256, 10))


def _conv(before: int, after: int, side: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, side), nn.PReLU(after)]


def _pool(side: int) -> nn.Module:
    return nn.MaxPool2d(side, 2, ceil_mode=True)


class Mtcnn:
    """The three networks with their weights, on a device."""

    def __init__(self, settings: MtcnnSettings, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        nets = OrderedDict(proposal=proposal_net(), refinement=refinement_net(), output=output_net())
        self._nets = nn.ModuleDict(nets).eval()
        self._nets.load_state_dict(load_file(WEIGHTS))
        self._nets.to(device)

    @torch.no_grad()
    def detect(self, pixels: Pixels, check: Callable[[], None]) -> list[Found]:
        """Return all faces found in a picture.

        Args:
            pixels: (height, width, 3) uint8 RGB.
            check: called between steps; an exception from it ends the search and propagates.
        """
        # Copied: Ray's arrays are read-only, and torch has no read-only tensors.
        picture = torch.tensor(pixels, device=self._device).permute(2, 0, 1)[None]
        picture = (picture.float() - 127.5) / 128  # (1, 3, h, w) float32 in [-1, 1]
        boxes = self._propose(picture, check)
        boxes = self._refine(picture, boxes, check)
        found = (part.cpu().numpy() for part in self._locate(picture, boxes, check))
        return [Found(box, keypoints, float(score)) for box, keypoints, score in zip(*found, strict=True)]

    def _propose(self, picture: Tensor, check: Callable[[], None]) -> Tensor:
        """Return candidate squares for faces, (n, 4) pixels."""
        height, width = picture.shape[-2:]
        picture = self._shrunk(picture)
        found = [(picture.new_empty(0, 4), picture.new_empty(0), picture.new_empty(0, 4))]
        for scale in self._scales(width, height):
            check()
            size = int(height * scale + 1), int(width * scale + 1)
            scores, offsets = self._nets["proposal"](functional.interpolate(picture, size=size, mode="area"))
            rows, columns = (scores[0] >= self._settings.thresholds[0]).nonzero(as_tuple=True)
            corners = torch.stack([columns, rows], 1) * STRIDE
            boxes = torch.cat([(corners + 1) / scale, (corners + CELL) / scale], 1).floor()
            scores, offsets = scores[0, rows, columns], offsets[0, :, rows, columns].T
            kept = nms(boxes, scores, 0.5)
            found.append((boxes[kept], scores[kept], offsets[kept]))
        boxes, scores, offsets = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes, scores, 0.7)
        return _square(_moved(boxes[kept], offsets[kept], 0))

    def _shrunk(self, picture: Tensor) -> Tensor:
        """Average the picture down to `max_side` once, instead of for each scale."""
        height, width = picture.shape[-2:]
        scale = self._settings.max_side / max(width, height)
        if scale >= 1:
            return picture
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return functional.interpolate(picture, size=size, mode="area")

    def _scales(self, width: int, height: int) -> Iterator[float]:
        """Yield the scales of the picture at which faces of increasing size fill the first network's window."""
        settings = self._settings
        scale = CELL / (settings.min_size * max(1.0, max(width, height) / settings.max_side))
        while min(width, height) * scale >= CELL:
            yield scale
            scale *= settings.factor

    def _refine(self, picture: Tensor, boxes: Tensor, check: Callable[[], None]) -> Tensor:
        """Return the candidate squares that R-Net accepts, (n, 4) pixels."""
        boxes, scores, offsets = self._looked_at("refinement", picture, boxes, 24, check)
        passed = scores > self._settings.thresholds[1]
        boxes, scores, offsets = boxes[passed], scores[passed], offsets[passed]
        kept = nms(boxes, scores, 0.7)
        return _square(_moved(boxes[kept], offsets[kept], 1))

    def _locate(self, picture: Tensor, boxes: Tensor, check: Callable[[], None]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the faces' boxes, (n, 4), and key points, (n, 5, 2), both in pixels, and their scores, (n,)."""
        boxes, scores, offsets, points = self._looked_at("output", picture, boxes, 48, check)
        passed = scores > self._settings.thresholds[2]
        boxes, scores, offsets, points = boxes[passed], scores[passed], offsets[passed], points[passed]
        sides = boxes[:, None, 2:] - boxes[:, None, :2] + 1
        points = points.unflatten(1, (2, 5)).transpose(1, 2) * sides + boxes[:, None, :2] - 1
        boxes = _moved(boxes, offsets, 1)
        kept = _apart(boxes, scores)
        return boxes[kept], points[kept], scores[kept]

    def _looked_at(
        self, name: str, picture: Tensor, boxes: Tensor, side: int, check: Callable[[], None]
    ) -> tuple[Tensor, ...]:
        """Return the boxes that overlap the picture, and a network's outputs for each."""
        height, width = picture.shape[-2:]
        low, high = boxes[:, :2].trunc(), boxes[:, 2:].trunc()
        seen = (high >= 1) & (high > low - 1) & (low <= boxes.new_tensor([width, height]))
        boxes = boxes[seen.all(1)]
        told = [self._nets[name](picture.new_empty(0, 3, side, side))]
        for batch in boxes.split(BATCH) if len(boxes) else ():
            check()
            told.append(
                self._nets[name](torch.cat([_crop(picture, box, side) for box in batch.trunc().int().tolist()]))
            )
        return boxes, *(torch.cat(parts) for parts in zip(*told, strict=True))


def _crop(picture: Tensor, box: list[int], side: int) -> Tensor:
    """Return a box's crop, (1, 3, side, side), black outside the picture. Box pixels are inclusive, counted from 1."""
    height, width = picture.shape[-2:]
    left, top, right, bottom = box[0] - 1, box[1] - 1, box[2], box[3]
    inside = picture[..., max(top, 0) : bottom, max(left, 0) : right]
    beyond = max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)
    return functional.interpolate(functional.pad(inside, beyond, value=BLACK), size=(side, side), mode="area")


def _moved(boxes: Tensor, offsets: Tensor, last: int) -> Tensor:
    """Move each side of the boxes, (n, 4), by a fraction of their size; the size includes `last` (0 or 1) pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + last
    return boxes + offsets * torch.cat([sides, sides], 1)


def _square(boxes: Tensor) -> Tensor:
    """Extend the boxes, (n, 4), to squares with the same centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.amax(1, keepdim=True)
    corners = boxes[:, :2] + (sides - longest) / 2
    return torch.cat([corners, corners + longest], 1)


def _apart(boxes: Tensor, scores: Tensor) -> list[int]:
    """Return the indices of the boxes kept, best first: no kept box overlaps another by over 70 % of the smaller."""
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).clamp_min(0)
    area = sides.prod(1)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        low = torch.maximum(boxes[kept, :2], boxes[index, :2])
        high = torch.minimum(boxes[kept, 2:], boxes[index, 2:])
        shared = (high - low + 1).clamp_min(0).prod(1)
        if bool((shared <= 0.7 * torch.minimum(area[kept], area[index])).all()):
            kept.append(index)
    return kept
