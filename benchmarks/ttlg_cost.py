"""What an update of guidance costs, against the plain reading: `vae.decode` with its gradient, at full size."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.report import Goal, Row, Section, alternated, ratio, spread
from benchmarks.ttlg_cases import MINIATURE, decoded_plainly, encoded, pictures, random_vae, tensors
from services.qwen_edit.decoders import StillDecoder, shrunk
from services.qwen_edit.guidance import (
    Losses,
    LossGuidance,
    Reference,
    Vgg16Features,
    fitted,
    sobel_edges,
)
from services.qwen_edit.request import Guidance

WIDTH, HEIGHT = 1280, 720
APART = 30
"""Frames of the clip from the picture that is guided to the one whose edges and style it is drawn to."""
ROUNDS = 5
UPDATES = 5
HALF = 640
"""The `edge_size` of the cheaper contenders."""
PLAIN, OURS, BF16, SMALLER = "vae.decode", "StillDecoder", "StillDecoder, bf16", f"edge_size {HALF}, bf16"
CONTENDERS = (PLAIN, OURS, BF16, SMALLER)
EDGES, BOTH = "edges", "edges and style"
CASES: Mapping[str, Guidance] = {EDGES: Guidance(), BOTH: Guidance(gram_scale=1)}

METHOD = f"""\
One update of the latents of a frame of the shipped clip at its own {WIDTH}×{HEIGHT}, by the miniature's VAE with random
weights, to the edges (and the style, by a random VGG16 at `gram_size` 224) of a frame {APART} later. *{PLAIN}* is the
plain reading: `vae.decode` with its clamp, its three-dimensional convolutions, and its whole gradient, float32.
*{OURS}* is the product's default, *bf16* with `decoder_dtype: bfloat16`; *edge_size {HALF}* decodes latents averaged to
half the size. Contenders are alternated in one process, {ROUNDS} rounds; the ratio is by rounds. *memory*: how far the
peak of the resident memory rises above what the process held before, in a process of its own. *loss left*: the whole
edge loss (decoded by {PLAIN} at full size) after {UPDATES} updates of the default `lr` {Guidance().lr}, over that
before. The cost of denoising is not in it: this is what guidance adds to a step."""


@dataclass(frozen=True)
class Bench:
    """A picture's latents, and for each contender what guides them."""

    latents: Tensor
    guides: Mapping[str, LossGuidance]
    whole: Callable[[Tensor], float]
    """Latents → the edge loss of what the VAE decodes from them."""


def measure() -> tuple[Section, list[Goal], Mapping[str, list[float]]]:
    """Compare the contenders. Some minutes on two cores."""
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    for case in CASES:
        bench = build(case)
        times = alternated({name: lambda name=name, b=bench: timed(b, name) for name in CONTENDERS}, ROUNDS)
        left = {name: remaining(bench, name) for name in track(CONTENDERS, description="loss left")}
        memory = {name: alone(case, name) for name in track(CONTENDERS, description="memory")}
        for name in CONTENDERS:
            rows.append(
                {
                    "guided by": case,
                    "decoded by": name,
                    "seconds": str(spread(times[name])),
                    "time / plain": str(ratio(times, name, PLAIN)),
                    "memory, MiB": memory[name],
                    "memory / plain": memory[name] / memory[PLAIN],
                    "loss left": left[name],
                }
            )
            samples[f"{case}, {name}, seconds"] = times[name]
        goals += [
            Goal(
                f"{case}: time of an update, {OURS} over {PLAIN}", ratio(times, OURS, PLAIN).median, 0.5, at_most=True
            ),
            Goal(f"{case}: peak memory, {OURS} over {PLAIN}", memory[OURS] / memory[PLAIN], 0.5, at_most=True),
            Goal(f"{case}: fall of the loss, {OURS} over {PLAIN}", (1 - left[OURS]) / (1 - left[PLAIN]), 0.99),
        ]
    return Section("Cost", METHOD, rows), goals, samples


def build(case: str, only: str | None = None) -> Bench:
    """Make what is compared, or only one contender of it."""
    vae = random_vae(0, **MINIATURE)
    shown = tensors(pictures(WIDTH, HEIGHT, APART)[:2])
    latents = encoded(vae, shown)[:1]
    edges, vgg16, settings = sobel_edges(shown[1:]), Vgg16Features("random"), CASES[case]
    grams = vgg16.grams(fitted(shown[1:], settings.gram_size))

    def losses(ttlg: Guidance) -> Losses:
        return Losses(ttlg, Reference(edges, grams), vgg16=vgg16)

    def ours(dtype: torch.dtype, edge_size: int | None = None) -> LossGuidance:
        decoder, ttlg = StillDecoder(vae, dtype), settings.model_copy(update={"edge_size": edge_size})
        scale = (edge_size or WIDTH) / WIDTH
        return LossGuidance(ttlg, lambda x: decoder(shrunk(x, scale)) * 0.5 + 0.5, losses(ttlg))

    makers: Mapping[str, Callable[[], LossGuidance]] = {
        PLAIN: lambda: LossGuidance(settings, lambda x: decoded_plainly(vae, x), losses(settings)),
        OURS: lambda: ours(torch.float32),
        BF16: lambda: ours(torch.bfloat16),
        SMALLER: lambda: ours(torch.bfloat16, HALF),
    }

    @torch.no_grad()
    def whole(moved: Tensor) -> float:
        return float(losses(settings).of(decoded_plainly(vae, moved), ["edge"])["edge"])

    return Bench(latents, {name: make() for name, make in makers.items() if only in (None, name)}, whole)


def timed(bench: Bench, name: str) -> float:
    """Seconds of one update."""
    began = time.perf_counter()
    bench.guides[name].descended(bench.latents)
    return time.perf_counter() - began


def remaining(bench: Bench, name: str) -> float:
    """The share of the loss that is left after some updates."""
    moved = bench.latents
    for _ in range(UPDATES):
        moved = bench.guides[name].descended(moved)
    return bench.whole(moved) / bench.whole(bench.latents)


def alone(case: str, name: str) -> float:
    """MiB that an update needs, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, case, name).result()


def _peak(case: str, name: str) -> float:
    bench = build(case, name)
    bench.guides[name].descended(bench.latents[..., :8, :8])  # what is made on first use does not count
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    bench.guides[name].descended(bench.latents)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    """A figure of this process, in KiB."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key))
