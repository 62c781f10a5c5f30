"""ArcFace's IR-SE50: embeds an aligned face as a 512-vector; pictures of one person have close embeddings.

Source: Deng et al., ArcFace, arXiv 1801.07698; squeeze-and-excitation, arXiv 1709.01507. The modules are named as in
facexlib's file `recognition_arcface_ir_se50.pth`, which InfiniteYou was trained with.
"""

import torch
from torch import Tensor, nn

UNITS = (3, 4, 14, 3)
"""Number of residual units in each of the four stages, which have 1, 2, 4 and 8 times the width."""
EMBEDDING = 512
"""Length of the embedding."""


class Excitation(nn.Module):
    """Squeeze and excitation: scales each channel by a weight computed from the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.fc2(self.fc1(features.mean((2, 3), keepdim=True)).relu())
        return features * weights.sigmoid()


class Unit(nn.Module):
    """A residual unit; `stride` is 2 in the first unit of a stage."""

    def __init__(self, before: int, after: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if before == after:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.PReLU(after),
            nn.Conv2d(after, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            Excitation(after, reduction),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.res_layer(features) + self.shortcut_layer(features)


class ArcFace(nn.Module):
    """The IR-SE50 network.

    Args:
        width: channels of the first stage; 64 in the published file.
        reduction: factor by which the excitations reduce the channels; 16 in the published file.
    """

    def __init__(self, width: int = 64, reduction: int = 16) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        units, before = [], width
        for stage, count in enumerate(UNITS):
            for index in range(count):
                after = width * 2**stage
                units.append(Unit(before, after, 1 if index else 2, reduction))
                before = after
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(before * 7 * 7, EMBEDDING),
            nn.BatchNorm1d(EMBEDDING),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Return the embeddings, (n, 512), each of length 1.

        Args:
            faces: (n, 3, 112, 112) float32 in [-1, 1], BGR.
        """
        return nn.functional.normalize(self.output_layer(self.body(self.input_layer(faces))))


def from_weights(weights: dict[str, Tensor]) -> ArcFace:
    """Build the network from its weights; the width is derived from their shapes.

    Raises:
        KeyError: the first layers are missing.
        RuntimeError: the weights are not those of an IR-SE50.
    """
    width = len(weights["input_layer.0.weight"])
    with torch.device("meta"):
        net = ArcFace(width, max(1, width // max(1, len(weights["body.0.res_layer.5.fc1.weight"]))))
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(requires_grad=False)
