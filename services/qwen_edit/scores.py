"""LPIPS distances of a finished frame, reported as scores in addition to the guidance losses."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.qwen_edit.guidance import randomise, trunk_weights

log = logging.getLogger(__name__)

LEAST_SIDE = 32
"""Minimum side of a picture for AlexNet's last layer, in pixels."""


class PerceptualDistance(nn.Module):
    """LPIPS with AlexNet (Zhang et al., arXiv 1801.03924), frozen, in float32.

    Args:
        source: a file with torchvision's AlexNet, or `random`: weights drawn from a fixed seed, with LPIPS's trained
            heads. Random weights only distinguish equal from unequal pictures.

    Raises:
        ConfigError: the file does not contain AlexNet's weights.
        ImportError: lpips is not installed.
    """

    def __init__(self, source: Path | str) -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # lpips uses a deprecated argument of torchvision
            self.net: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        layers = {name: layer for part in self.net.net.children() for name, layer in part.named_children()}
        trunk = nn.ModuleDict(layers)
        if source == "random":
            randomise(trunk)
        else:
            trunk.load_state_dict(trunk_weights(trunk, Path(source), "lpips"))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def between(self, one: Tensor, other: Tensor) -> float | None:
        """Return the distance of two pictures, (1, 3, h, w) in [0, 1]; None if a side has fewer than 32 pixels."""
        if min(one.shape[-2:]) < LEAST_SIDE:
            return None
        return float(self.net(one, other, normalize=True))


def perceptual_distance(source: Path | str | None) -> PerceptualDistance | None:
    """Return the metric, or None if it is not configured or lpips is not installed."""
    if source is None:
        return None
    if importlib.util.find_spec("lpips") is None:
        log.warning("lpips is not installed (pip install lpips): its scores are left out")
        return None
    return PerceptualDistance(source)
