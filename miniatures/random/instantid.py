"""Writes the recogniser's tiny checkpoint: IR-SE50's layout, random weights, 3 MB.

Untrained, it still tells faces apart: random filters respond differently to different faces. The statistics of its
normalisation layers are measured on random blots, so that what all pictures share does not dominate.
"""

from pathlib import Path

import torch
from torch import nn

from miniatures.random import Block, Fields, WriteForm
from services.instantid.arcface import ArcFace

SEED = 50
WIDTH = 4
FILE = "recognition_arcface_ir_se50.pth"
BLOTS = 128
"""Number of pictures from which the statistics are measured."""

SHORT: Fields = {}
"""A request that takes a second."""
LONG: Fields = {}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny`: all 24 units of IR-SE50, with 4 to 32 channels instead of 64 to 512.
        folder: folder for `InstantId`.

    Raises:
        ValueError: unknown form.
    """
    if form != "tiny":
        raise ValueError(f"form: must be tiny, got {form!r}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        net = ArcFace(WIDTH, reduction=WIDTH).train()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # plain averages
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
        blots = torch.randn(BLOTS, 3, 14, 14) * 0.5
        net(nn.functional.interpolate(blots, size=(112, 112), mode="bicubic").clamp(-1, 1))
    torch.save(net.state_dict(), folder / FILE)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {"recogniser": weights("tiny")}
