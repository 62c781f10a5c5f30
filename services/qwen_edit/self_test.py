"""Self-test of the guidance losses, without a large model: `python -m services.qwen_edit.self_test`.

Each loss, alone and after a small decoder, is run forward and backward on random inputs, and its gradient along a
random direction is compared with central differences in float64.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from services.errors import ReelError
from services.qwen_edit.decoders import StillDecoder
from services.qwen_edit.guidance import (
    Losses,
    LossGuidance,
    Reference,
    Vgg16Features,
    edge_loss,
    gram_loss,
    laplacian_edges,
    sobel_edges,
    temporal_loss,
)
from services.qwen_edit.request import Guidance

SEED = 5
SIDE = 32
"""Width and height of the test pictures, in pixels."""
STEPS = (1e-5, 1e-6, 1e-7)
"""Step sizes of the differences. The best result counts: a ReLU that switches within a step spoils larger ones too."""
TOLERANCE = 1e-4
"""Maximum relative error of a gradient."""

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Finding:
    """Result of one gradient check."""

    name: str
    loss: float
    gradient: float
    """Derivative along the direction, by autograd."""
    difference: float
    """Derivative along the direction, by central differences."""

    @property
    def error(self) -> float:
        """Relative error of the gradient."""
        return abs(self.gradient - self.difference) / max(abs(self.difference), 1e-12)

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance and the derivative is not zero."""
        return self.error <= TOLERANCE and self.difference != 0.0


def checked(name: str, loss: Loss, at: Tensor) -> Finding:
    """Compare the gradient of `loss` at a float64 tensor with central differences."""
    direction = torch.randn(at.shape, dtype=at.dtype, generator=torch.Generator().manual_seed(SEED + 1))
    leaf = at.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    along = float((gradient * direction).sum())
    with torch.no_grad():
        differences = [float(loss(at + s * direction) - loss(at - s * direction)) / (2 * s) for s in STEPS]
    nearest = min(differences, key=lambda difference: abs(difference - along))
    return Finding(name, float(value.detach()), along, nearest)


def small_vae() -> AutoencoderKLQwenImage:
    """Return a VAE of Qwen-Image's architecture with a few thousand random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )


def losses_of(pictures: Tensor, other: Tensor, vgg16: Vgg16Features) -> Mapping[str, Loss]:
    """Return every loss by name, as a function of a picture, (1, 3, h, w) in [0, 1]."""
    found: dict[str, Loss] = {}
    for kind in ("mse", "l1", "charbonnier"):
        for operator in (sobel_edges, laplacian_edges):
            target = operator(other)
            name = f"{operator.__name__.removesuffix('_edges')} {kind}"
            found[f"edge loss, {name}"] = lambda x, o=operator, t=target, k=kind: edge_loss(o(x), t, k)
        found[f"temporal loss, {kind}"] = lambda x, k=kind: temporal_loss(x, other, k)
    reference = vgg16.grams(other)
    found["Gram loss"] = lambda x: gram_loss(vgg16.grams(x), reference)
    return found


def findings() -> list[Finding]:
    """Run every gradient check; takes a few seconds."""
    generator = torch.Generator().manual_seed(SEED)
    pictures, other = (torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64, generator=generator) for _ in range(2))
    vgg16 = Vgg16Features("random").double()
    made = losses_of(pictures, other, vgg16)
    results = [checked(name, loss, pictures) for name, loss in made.items()]

    latents = torch.randn(1, 4, SIDE // 8, SIDE // 8, dtype=torch.float64, generator=generator)
    decoder = StillDecoder(small_vae(), torch.float64).double()
    for name, loss in made.items():
        if "l1" not in name:  # its gradient jumps where a difference is zero, which the step can cross
            whole: Loss = lambda x, f=loss: f(decoder(x) * 0.5 + 0.5)  # noqa: E731
            results.append(checked(f"latents → {name}", whole, latents))
    return results


def falls() -> tuple[float, float]:
    """Return the edge loss before the first and the last of twenty guidance updates."""
    generator = torch.Generator().manual_seed(SEED)
    decoder = StillDecoder(small_vae(), torch.float32)
    target = sobel_edges(torch.rand(1, 3, SIDE, SIDE, generator=generator))
    losses = Losses(Guidance(), Reference(edges=target))
    x0 = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=generator)
    seen: list[float] = []
    guidance = LossGuidance(
        Guidance(inner_steps=20), lambda x: decoder(x) * 0.5 + 0.5, losses, told=lambda u: seen.append(u.losses["edge"])
    )
    guidance.descended(x0)
    return seen[0], seen[-1]


def main() -> int:
    """Run all checks and print the results. Return the exit status: 0 if every gradient is right and the loss falls."""
    try:
        results = findings()
        before, after = falls()
    except ReelError as error:
        print(f"self-test: {error.message}", file=sys.stderr)
        return 1
    width = max(len(result.name) for result in results)
    for result in results:
        mark = "ok" if result.passed else "WRONG"
        print(
            f"{result.name:{width}}  loss {result.loss:.4g}  gradient {result.gradient:+.6g}  "
            f"difference {result.difference:+.6g}  relative error {result.error:.1e}  {mark}"
        )
    print(f"{'edge loss under guidance':{width}}  {before:.4g} → {after:.4g}  {'ok' if after < before else 'WRONG'}")
    wrong = sum(not result.passed for result in results) + (after >= before)
    print("all gradients are right" if not wrong else f"{wrong} of {len(results) + 1} checks failed")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
