"""Measures how well cheaper gradients keep the direction of the full one."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AutoencoderKLQwenImage
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from benchmarks.report import Row, Section
from benchmarks.ttlg_cases import (
    MINIATURE,
    REAL_DEPTH,
    Sampling,
    encode_frames,
    predict_clean,
    random_vae,
    read_frames,
    to_tensors,
)
from benchmarks.ttlg_trained import PatchEncoder, psnr, train_decoder
from services.qwen_edit.decoders import StillDecoder, shrunk
from services.qwen_edit.guidance import Vgg16Features, edge_loss, fitted, gram_loss, resized, sobel_edges
from services.qwen_edit.request import EditRequest, Guidance
from services.qwen_edit.service import QwenEdit

SIZE, SIZE_MID = (512, 288), (320, 176)
BASE_MID = 32
APART = 30
"""Distance in frames of the clip between a frame and the one that provides edges and style."""
FRAMES, FRAMES_MID = 3, 2
GRAM_SHARE = 224 / 1024
"""Default `gram_size` relative to the width of a picture of one megapixel."""
RUN_STEPS, RUN_SIZE = 16, (320, 176)
LAGS = (1, 2, 3)
LR = Guidance().lr

Decode = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor], Tensor]
"""Loss of a picture (1, 3, h, w) in [0, 1] of any size."""


@dataclass(frozen=True)
class Decoders:
    """Decoders of the same latents: normalised (1, z, h, w) → (1, 3, 8h, 8w), roughly in [-1, 1]."""

    plain: Decode
    exact: Decode
    kept: Decode
    """Exact, with all activations kept for the backward pass."""
    half: Decode
    """In bfloat16."""


@dataclass(frozen=True)
class Case:
    """Latents of a picture, and the edges and style of another one."""

    decoders: Decoders
    latents: Tensor
    target: Tensor
    """(1, 1, h, w)."""
    grams: Sequence[Tensor]
    vgg16: Vgg16Features

    @property
    def gram_size(self) -> int:
        return round(self.target.shape[-1] * GRAM_SHARE)

    def edge(self, picture: Tensor) -> Tensor:
        edges = sobel_edges(picture)
        return edge_loss(edges, resized(self.target, *edges.shape[-2:]))

    def gram(self, picture: Tensor) -> Tensor:
        return gram_loss(self.vgg16.grams(fitted(picture, self.gram_size)), self.grams)


Way = Callable[[Case, Loss], Tensor]
"""Returns the gradient of a loss with respect to the latents."""


def _gradient(case: Case, loss: Loss, decode: Decode) -> Tensor:
    leaf = case.latents.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(decode(leaf) * 0.5 + 0.5), leaf)[0]


def _by(name: str) -> Way:
    return lambda case, loss: _gradient(case, loss, getattr(case.decoders, name))


def _shrunk(scale: float) -> Way:
    return lambda case, loss: _gradient(case, loss, lambda x: case.decoders.exact(shrunk(x, scale)))


def _compared_at_half(case: Case, loss: Loss) -> Tensor:
    return _gradient(case, lambda p: loss(fitted(p, p.shape[-1] // 2)), case.decoders.exact)


def _crops(many: int) -> Way:
    """Decode random crops of half the width and height; only for losses that depend on the position."""

    def way(case: Case, _loss: Loss) -> Tensor:
        height, width = case.latents.shape[-2:]
        generator = torch.Generator().manual_seed(height)
        total = torch.zeros_like(case.latents)
        for _ in range(many):
            y, x = (int(torch.randint(side - side // 2 + 1, (), generator=generator)) for side in (height, width))
            part = (..., slice(y, y + height // 2), slice(x, x + width // 2))
            seen = (..., slice(8 * y, 8 * (y + height // 2)), slice(8 * x, 8 * (x + width // 2)))
            total += _of_part(case, part, seen)
        return total

    return way


def _of_part(case: Case, part: Any, seen: Any) -> Tensor:
    return _gradient(
        case,
        lambda picture: edge_loss(sobel_edges(picture), case.target[seen]),
        lambda latents: case.decoders.exact(latents[part]),
    )


EXACT = {"StillDecoder": _by("exact"), "StillDecoder, save_memory off": _by("kept"), "StillDecoder, bf16": _by("half")}
SHRUNK = {"latents shrunk to 1/2": _shrunk(1 / 2), "latents shrunk to 1/4": _shrunk(1 / 4)}
WAYS: Mapping[str, Mapping[str, Way]] = {
    "edge": {
        **EXACT,
        **SHRUNK,
        "decoded whole, compared at 1/2": _compared_at_half,
        "one random crop of 1/2 x 1/2": _crops(1),
        "mean of 4 such crops": _crops(4),
    },
    "gram": {**EXACT, **SHRUNK, "latents shrunk to gram_size": _shrunk(GRAM_SHARE)},
}

METHOD = f"""\
The gradient of a loss with respect to the latents, by each way, against the full gradient: `vae.decode` without its
clamp, float32, loss at full size. *cosine*: of the two gradients. *fall*: the decrease of the full loss by one update
of the default `lr` {LR}, relative to the same update along the full gradient (1 is equal, negative is an increase).
Medians over the frames. *time*: relative to the full gradient, measured once on the last decoder; only a rough
indication.

Latents are normalised, from frames of the shipped clip; edges and style are those of the frame {APART} frames later.
`gram_size` is {GRAM_SHARE:.3f} of the width, as 224 is of the 1024 of a megapixel; the full way decodes everything and
shrinks the picture. The shrunk ways are those of `edge_size` and `gram_size` in the product, if no other loss needs a
larger picture."""


def measure(edit: QwenEdit) -> list[Section]:
    """Compare the ways. Takes two minutes on two cores."""
    vgg16 = Vgg16Features("random")
    cases, quality = _cases(vgg16)
    columns: dict[str, dict[tuple[str, str], tuple[float, float, float]]] = {}
    for name, several in track(cases.items(), description="direction"):
        found = [_compared(case) for case in several]
        columns[name] = {key: cast("Any", tuple(map(_median, *(one[key] for one in found)))) for key in found[0]}
    rows: list[Row] = []
    for loss, way in next(iter(columns.values())):
        row: dict[str, str | float] = {"loss": loss, "way": way}
        for name, column in columns.items():
            row |= {f"{name}: cosine": round(column[loss, way][0], 4), f"{name}: fall": column[loss, way][1]}
        rows.append(row | {"time": list(columns.values())[-1][loss, way][2]})
    return [Section("Direction: which ways keep it", f"{METHOD}\n\n{quality}", rows), _along_a_run(edit, vgg16)]


def _median(*values: float) -> float:
    return statistics.median(values)


def _compared(case: Case) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return (loss, way) → cosine, decrease of the loss, and time."""
    found: dict[tuple[str, str], tuple[float, float, float]] = {}
    for name, ways in WAYS.items():
        loss: Loss = getattr(case, name)
        began = time.perf_counter()
        full = _gradient(case, loss, case.decoders.plain)
        whole = time.perf_counter() - began
        best = _fall(case, loss, full)
        for label, way in ways.items():
            began = time.perf_counter()
            ours = way(case, loss)
            took = time.perf_counter() - began
            found[name, label] = _cosine(ours, full), _fall(case, loss, ours) / best, took / whole
    return found


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


@torch.no_grad()
def _fall(case: Case, loss: Loss, gradient: Tensor) -> float:
    moved = case.latents - LR * gradient / gradient.square().mean().sqrt()
    before, after = (float(loss(case.decoders.exact(x) * 0.5 + 0.5)) for x in (case.latents, moved))
    return before - after


def _cases(vgg16: Vgg16Features) -> tuple[dict[str, list[Case]], str]:
    """Return decoder name → cases, and a note on the trained decoder."""
    shown, few = to_tensors(read_frames(*SIZE, APART)), to_tensors(read_frames(*SIZE_MID, APART))
    footage = to_tensors(read_frames(*SIZE, 4))
    encode = PatchEncoder.of(footage)
    decoder = train_decoder(footage, encode)
    latents = encode(shown)
    with torch.no_grad():
        whole = psnr(decoder(latents) * 0.5 + 0.5, shown)
        smaller = [
            psnr(decoder(shrunk(latents, s)) * 0.5 + 0.5, F.avg_pool2d(shown, round(1 / s))) for s in (0.5, 0.25)
        ]
    half = copy.deepcopy(decoder)
    half.parts.bfloat16()
    half._dtype = torch.bfloat16
    saving = copy.deepcopy(decoder)
    saving._save_memory = True
    ours = Decoders(decoder, saving, decoder, half)
    miniature, mid = f"random {MINIATURE['base_dim']}", f"random {BASE_MID}"
    cases: dict[str, list[Case]] = {
        f"trained {MINIATURE['base_dim']}": [_case(ours, latents, shown, n, vgg16) for n in range(FRAMES)],
        miniature: _random_cases(0, MINIATURE, shown, range(FRAMES), vgg16),
        mid: [
            case
            for n in range(FRAMES_MID)
            for case in _random_cases(n, {"base_dim": BASE_MID, **REAL_DEPTH}, few, [n], vgg16)
        ],
    }
    return (
        cases,
        f"""\
Decoders: *{miniature}* has the miniature's shape ({SIZE[0]}×{SIZE[1]}, {FRAMES} frames); *{mid}* has the depth of the
real one and base_dim {BASE_MID} instead of 96 ({SIZE_MID[0]}×{SIZE_MID[1]}, {FRAMES_MID} frames, new weights for each).
Their weights are random, so they decode noise. *trained* has the miniature's shape and was trained on the clip to
invert a projection of 8 x 8 pixels to 16 components: {whole:.1f} dB; from latents shrunk to 1/2 and 1/4 it decodes the
shrunk frame with {smaller[0]:.1f} and {smaller[1]:.1f} dB. Its full gradient is that of its StillDecoder, as it has no
other decoder.""",
    )


def _case(decoders: Decoders, latents: Tensor, shown: Tensor, n: int, vgg16: Vgg16Features) -> Case:
    other = shown[n + 1 : n + 2]
    grams = vgg16.grams(fitted(other, round(other.shape[-1] * GRAM_SHARE)))
    return Case(decoders, latents[n : n + 1], sobel_edges(other), grams, vgg16)


def _random_cases(
    seed: int, config: Mapping[str, Any], shown: Tensor, frames: Sequence[int], vgg16: Vgg16Features
) -> list[Case]:
    vae = random_vae(seed, **config)
    latents = encode_frames(vae, shown)
    still = [StillDecoder(vae, torch.float32, save_memory=save) for save in (True, False)]
    half = StillDecoder(vae, torch.bfloat16)
    mean, std = cast("Tensor", still[0].mean), cast("Tensor", still[0].std)
    decoders = Decoders(lambda x: _unclamped(vae, x * std + mean), still[0], still[1], half)
    return [_case(decoders, latents, shown, n, vgg16) for n in frames]


def _unclamped(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    return cast("Any", vae).decoder(vae.post_quant_conv(latents[:, :, None]))[:, :, 0]


def _along_a_run(edit: QwenEdit, vgg16: Vgg16Features) -> Section:
    """Measure whether the gradient of a step is still right at later steps."""
    shown = read_frames(*RUN_SIZE, APART)
    asked = EditRequest(steps=RUN_STEPS, seed=0, edge_filter="sobel", ttlg=Guidance(edge_scale=0))
    sampling = Sampling(edit, asked, shown[0], shown[1])
    seen: list[Tensor] = []

    def on_step_end(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(sampling.latents(predict_clean(pipe, tensors)))
        return {}

    sampling.run(on_step_end)
    decode = cast("Any", sampling.model)._decoder
    decoders = Decoders(decode, decode, decode, decode)
    cases = [_case(decoders, x0, to_tensors(shown[:2]), 0, vgg16) for x0 in seen]
    rows: list[Row] = []
    for name in WAYS:
        gradients = [_gradient(case, getattr(case, name), decode) for case in cases]
        halves = {"first half of the run": range(RUN_STEPS // 2), "second half": range(RUN_STEPS // 2, RUN_STEPS)}
        for half, steps in halves.items():
            row: dict[str, str | float] = {"loss": name, "": half}
            for lag in LAGS:
                pairs = [(gradients[k], gradients[k + lag]) for k in steps if k + lag < RUN_STEPS]
                row[f"{lag} later"] = round(statistics.median(_cosine(a, b) for a, b in pairs), 4)
            rows.append(row)
    method = f"""\
Unguided sampling of {RUN_STEPS} steps on the miniature at {RUN_SIZE[0]}×{RUN_SIZE[1]}: the median cosine between the
gradients of a step and of a later step. Guidance at every 2nd step only (`every: 2`) omits updates with the direction
of *1 later*, at every 4th also that of *3 later*. The miniature's transformer is random, so its picture hardly changes
between steps; that of a trained one changes more, above all in the first half."""
    return Section("Direction: from step to step", method, rows)
