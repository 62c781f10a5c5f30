"""Measures the cost of a guidance update at full size, against `vae.decode` with its full gradient."""

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

from benchmarks.report import Goal, Row, Section, find_spread, measure_alternately, ratio
from benchmarks.ttlg_cases import MINIATURE, decode_plainly, encode_frames, random_vae, read_frames, to_tensors
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
"""Distance in frames of the clip between the guided picture and the one that provides edges and style."""
ROUNDS = 5
UPDATES = 5
HALF = 640
"""`edge_size` of the cheaper contenders."""
PLAIN, OURS, BF16, SMALLER = "vae.decode", "StillDecoder", "StillDecoder, bf16", f"edge_size {HALF}, bf16"
CONTENDERS = (PLAIN, OURS, BF16, SMALLER)
EDGES, BOTH = "edges", "edges and style"
CASES: Mapping[str, Guidance] = {EDGES: Guidance(), BOTH: Guidance(gram_scale=1)}

METHOD = f"""\
One update of the latents of a frame of the shipped clip at its full size, {WIDTH}×{HEIGHT}, by the miniature's VAE with
random weights, towards the edges (and the style, by a random VGG16 at `gram_size` 224) of the frame {APART} frames
later. *{PLAIN}* is the direct implementation: `vae.decode` with its clamp, its three-dimensional convolutions and its
full gradient, in float32. *{OURS}* is the product's default, *bf16* uses `decoder_dtype: bfloat16`, and *edge_size
{HALF}* decodes latents averaged to half the size. Contenders alternate in one process, {ROUNDS} rounds; ratios are per
round. *memory*: the increase of the peak resident memory, in a separate process. *loss left*: the full edge loss
(decoded by {PLAIN} at full size) after {UPDATES} updates of the default `lr` {Guidance().lr}, relative to the loss
before them. Denoising is not included: the figures are the additional cost of guidance per step."""


@dataclass(frozen=True)
class Bench:
    """Latents of a picture, and the guidance of each contender."""

    latents: Tensor
    guides: Mapping[str, LossGuidance]
    whole: Callable[[Tensor], float]
    """Latents → edge loss of the picture that the VAE decodes from them."""


def measure() -> tuple[Section, list[Goal], Mapping[str, list[float]]]:
    """Compare the contenders. Takes several minutes on two cores."""
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    for case in CASES:
        bench = build(case)
        times = measure_alternately(
            {name: lambda name=name, b=bench: time_update(b, name) for name in CONTENDERS}, ROUNDS
        )
        left = {name: measure_remaining(bench, name) for name in track(CONTENDERS, description="loss left")}
        memory = {name: measure_memory(case, name) for name in track(CONTENDERS, description="memory")}
        for name in CONTENDERS:
            rows.append(
                {
                    "guided by": case,
                    "decoded by": name,
                    "seconds": str(find_spread(times[name])),
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
    """Create the contenders of a case, or only one of them."""
    vae = random_vae(0, **MINIATURE)
    shown = to_tensors(read_frames(WIDTH, HEIGHT, APART)[:2])
    latents = encode_frames(vae, shown)[:1]
    edges, vgg16, settings = sobel_edges(shown[1:]), Vgg16Features("random"), CASES[case]
    grams = vgg16.grams(fitted(shown[1:], settings.gram_size))

    def losses(ttlg: Guidance) -> Losses:
        return Losses(ttlg, Reference(edges, grams), vgg16=vgg16)

    def ours(dtype: torch.dtype, edge_size: int | None = None) -> LossGuidance:
        decoder, ttlg = StillDecoder(vae, dtype), settings.model_copy(update={"edge_size": edge_size})
        scale = (edge_size or WIDTH) / WIDTH
        return LossGuidance(ttlg, lambda x: decoder(shrunk(x, scale)) * 0.5 + 0.5, losses(ttlg))

    makers: Mapping[str, Callable[[], LossGuidance]] = {
        PLAIN: lambda: LossGuidance(settings, lambda x: decode_plainly(vae, x), losses(settings)),
        OURS: lambda: ours(torch.float32),
        BF16: lambda: ours(torch.bfloat16),
        SMALLER: lambda: ours(torch.bfloat16, HALF),
    }

    @torch.no_grad()
    def whole(moved: Tensor) -> float:
        return float(losses(settings).of(decode_plainly(vae, moved), ["edge"])["edge"])

    return Bench(latents, {name: make() for name, make in makers.items() if only in (None, name)}, whole)


def time_update(bench: Bench, name: str) -> float:
    """Return the seconds of one update."""
    began = time.perf_counter()
    bench.guides[name].descended(bench.latents)
    return time.perf_counter() - began


def measure_remaining(bench: Bench, name: str) -> float:
    """Return the share of the loss that remains after several updates."""
    moved = bench.latents
    for _ in range(UPDATES):
        moved = bench.guides[name].descended(moved)
    return bench.whole(moved) / bench.whole(bench.latents)


def measure_memory(case: str, name: str) -> float:
    """Return the memory of an update in MiB, measured in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, case, name).result()


def _peak(case: str, name: str) -> float:
    bench = build(case, name)
    bench.guides[name].descended(bench.latents[..., :8, :8])  # first use, which allocates more
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    bench.guides[name].descended(bench.latents)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    """Return a figure of this process's status, in KiB."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key))
