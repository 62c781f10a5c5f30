"""Writes tiny nets of Real-ESRGAN's two architectures, with random weights, in the layout of the released files."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch import nn

from miniatures.random import Block, Fields, WriteForm

SEED = 4

SHORT: Fields = {"scale": 2}
"""A request that takes a second."""
LONG: Fields = {}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `compact` (the architecture of realesr-animevideov3 and realesr-general-x4v3), `rrdb` (RealESRGAN_x4plus)
            or `rrdb-x2` (RealESRGAN_x2plus).
        folder: folder for the file.

    Raises:
        ValueError: unknown form.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        save_file(
            {name: weight.contiguous() for name, weight in _net(form).state_dict().items()},
            folder / f"{form}.safetensors",
        )


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests, with the included small net."""
    del weights
    return {}


def _net(form: str) -> nn.Module:
    if form == "compact":
        return Compact(num_feat=8, num_conv=2, upscale=4)
    if form == "rrdb":
        return ESRGAN(num_filters=8, num_blocks=1, scale=4)
    if form == "rrdb-x2":
        return ESRGAN(num_filters=8, num_blocks=1, scale=4, shuffle_factor=2, in_nc=12)
    raise ValueError(f"form: must be compact, rrdb or rrdb-x2, got {form!r}")
