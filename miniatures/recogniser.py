"""Training of a narrow ArcFace IR-SE50, which tells drawn people apart.

Source: Deng et al., ArcFace, arXiv 1801.07698; without the margin, which drawn faces do not need.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from miniatures.faces import KNOWN, draw_person, draw_portrait
from services.frames import Pixels
from services.instantid.arcface import EMBEDDING, ArcFace
from services.instantid.geometry import aligned, similarity

FILE = "arcface.safetensors"
WIDTH = 2
PEOPLE, VIEWS = 1200, 4
SIZES = (112, 192)
"""Range of the side of the training pictures, in pixels."""
BATCH = 48
SHARPNESS = 16.0
"""Factor on the cosines before the softmax."""
DROPOUT = 0.1
SEEN_AT: NDArray[np.float32] = np.array([[1.3, 0.4], [1.1, 0.5], [1.1, 0.2], [-0.2, 1.5], [2.1, 1.4]], np.float32)
"""Mean offset of MTCNN's key points from the true ones on drawn faces, (5, 2), in pixels of the aligned crop."""
SEEN_WITHIN = 1.3
"""Standard deviation of that offset, in pixels of the aligned crop."""


class RecogniserRecipe:
    """Trains classification by person, from the cosine between an embedding and a learnt direction per person."""

    lr, adam_lr, steps = 0.02, 2e-3, 900

    def __init__(self, folder: Path, people: int = PEOPLE) -> None:
        del folder  # needs no other checkpoint
        net = ArcFace(WIDTH, reduction=WIDTH)
        for layer in net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = DROPOUT
        for unit in net.body:  # blocks start as the identity
            nn.init.zeros_(unit.res_layer[4].weight)
        self.module = nn.ModuleDict({"net": net, "people": nn.Linear(EMBEDDING, people, bias=False)})
        rng = np.random.default_rng(KNOWN)
        self._crops = torch.from_numpy(
            np.stack([_crop(rng, KNOWN + who) for who in range(people) for _ in range(VIEWS)])
        )  # (people * views, 112, 112, 3) uint8 RGB

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        chosen = rng.integers(len(self._crops), size=BATCH)
        device = next(self.module.parameters()).device
        faces = vary_camera(rng, prepare_crops(self._crops[chosen])).to(device)
        embeddings = self.module["net"](faces)
        directions = nn.functional.normalize(self.module["people"].weight)
        whose = torch.from_numpy(chosen // VIEWS).to(device)
        return nn.functional.cross_entropy(SHARPNESS * embeddings @ directions.T, whose)

    def save(self, folder: Path) -> None:
        """Write the net without the directions of the people."""
        net = deepcopy(self.module["net"]).cpu()
        self._measure(net)
        save_file(net.to(torch.bfloat16).state_dict(), folder / FILE)

    @torch.no_grad()
    def _measure(self, net: ArcFace) -> None:
        """Measure the statistics of the normalisation layers again: those of averaged weights differ."""
        for layer in net.modules():
            if isinstance(layer, _BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None  # plain averages
            elif isinstance(layer, nn.Dropout):
                layer.p = 0.0
        net.train()
        for crops in self._crops[: 16 * BATCH].split(BATCH):
            net(prepare_crops(crops))
        net.eval()


def prepare_crops(crops: Tensor) -> Tensor:
    """Convert aligned crops, (n, 112, 112, 3) uint8 RGB, to the net's input, (n, 3, 112, 112) BGR in [-1, 1]."""
    # Contiguous: with channels last, torch's gradient of convolutions this narrow writes out of bounds.
    return crops.flip(-1).permute(0, 3, 1, 2).float().contiguous() / 255 * 2 - 1


def vary_camera(rng: np.random.Generator, faces: Tensor) -> Tensor:
    """Vary the light and the camera noise of each face."""
    gain = torch.from_numpy(
        rng.uniform(0.85, 1.15, (len(faces), 1, 1, 1)) * rng.uniform(0.95, 1.05, (len(faces), 3, 1, 1))
    )
    noise = torch.from_numpy(rng.uniform(0, 0.04, (len(faces), 1, 1, 1))).float() * torch.randn_like(faces)
    return ((faces + 1) * gain.float() - 1 + noise).clamp(-1, 1)


def _crop(rng: np.random.Generator, identity: int) -> Pixels:
    """Draw a person, and crop the face at key points with MTCNN's error: (112, 112, 3) uint8 RGB."""
    picture, keypoints = draw_portrait(draw_person(identity), rng, int(rng.integers(*SIZES)))
    enlarged = np.sqrt(np.linalg.det(similarity(keypoints)[:2, :2]))
    seen = SEEN_AT + rng.normal(0, SEEN_WITHIN, (5, 2))
    return aligned(picture, (keypoints + seen / enlarged).astype(np.float32))[0]
