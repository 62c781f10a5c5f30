"""Measures the effect of guidance on a rolling edit, with the same first frame, edges and seeds."""

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.report import Goal, Row, Section
from benchmarks.ttlg_cases import Guide, Sampling, predict_clean, read_frames
from benchmarks.ttlg_plot import Panel, drawing
from services.frames import Frames, Scores
from services.qwen_edit.guidance import LossGuidance
from services.qwen_edit.request import EditRequest, Guidance
from services.qwen_edit.service import QwenEdit

WIDTH, HEIGHT = 256, 144
STEPS = 8
EDGES = 8
EVERY = 8
"""Frames of the clip between two edge pictures, a third of a second."""
SEEDS = (0, 1, 2)
METRICS = ("edge_loss", "gram_loss", "temporal_loss", "lpips_to_init", "lpips_to_prev")

UNGUIDED, GUIDED = "not guided", "guided by this loss"
OFF, EDGE, GRAM, TEMPORAL = "off", "edge", "gram", "temporal"
VARIANTS = {
    OFF: Guidance(edge_scale=0),
    EDGE: Guidance(),
    GRAM: Guidance(edge_scale=0, gram_scale=1),
    TEMPORAL: Guidance(edge_scale=0, temporal_scale=1),
}

METHOD = f"""\
A rolling edit of a first frame along {EDGES} edge pictures (`edge_filter: sobel`), all from the shipped clip, scaled to
{WIDTH}×{HEIGHT}, {EVERY} frames apart: each frame is edited from the one before it in {STEPS} steps, by the service
with small random weights, for the seeds {", ".join(map(str, SEEDS))}; without guidance, or guided by one loss with the
default `lr` {Guidance().lr}. Figures are means over the {EDGES} generated frames, and medians of these over the seeds.
The model, VGG16 and AlexNet have **random weights**: the measurement shows that losses decrease, not how pictures look.
Every frame is in `ttlg.csv`; `ttlg.svg` shows the losses by step (of frame 1, seed 0, before each step's update) and by
frame."""

Course = Sequence[Scores]
"""Scores of a rolling edit's frames, from frame 1 on."""


@dataclass(frozen=True)
class Quality:
    """Results of the measurement."""

    courses: Mapping[tuple[str, int], Course]
    """(variant, seed) → scores."""
    traces: Mapping[str, Sequence[Mapping[str, float]]]
    """Variant → losses per step of frame 1 with the first seed, and finally those of its result."""

    def mean(self, variant: str, seed: int, metric: str) -> float:
        return statistics.fmean(self._line(variant, seed, metric))

    def median(self, variant: str, metric: str) -> float:
        """Return the median over the seeds."""
        return statistics.median(self.mean(variant, seed, metric) for seed in SEEDS)

    def section(self) -> Section:
        rows: list[Row] = [
            {"guided by": variant} | {metric.replace("_", " "): self.median(variant, metric) for metric in METRICS}
            for variant in VARIANTS
        ]
        return Section("Quality", METHOD, rows)

    def goals(self) -> list[Goal]:
        def fell(variant: str, metric: str) -> float:
            return statistics.median(self.mean(variant, s, metric) / self.mean(OFF, s, metric) for s in SEEDS)

        both = [(a, b) for s in SEEDS for a, b in zip(self.courses[EDGE, s], self.courses[OFF, s], strict=True)]
        kept = sum((a.edge_loss or 0) <= (b.edge_loss or 0) for a, b in both) / len(both)
        to_prev, to_init = self.median(EDGE, "lpips_to_prev"), self.median(EDGE, "lpips_to_init")
        return [
            Goal("mean edge loss, edge guidance over none", fell(EDGE, "edge_loss"), 0.95, at_most=True),
            Goal("share of frames whose edge loss is not larger with edge guidance", kept, 0.6),
            Goal("mean Gram loss, Gram guidance over none", fell(GRAM, "gram_loss"), 0.98, at_most=True),
            Goal("edge guidance: mean LPIPS to the frame before over that to the first", to_prev / to_init, 1, True),
            Goal("edge guidance: mean LPIPS to the frame before", to_prev, 0.005),
            Goal("edge guidance: mean LPIPS to the first frame", to_init, 0.01),
        ]

    def csv(self) -> str:
        lines = [f"guided_by,seed,frame,{','.join(METRICS)}"]
        for (variant, seed), course in self.courses.items():
            for scores in course:
                figures = ",".join(f"{getattr(scores, metric):.6f}" for metric in METRICS)
                lines.append(f"{variant},{seed},{scores.frame},{figures}")
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """Return charts with one row per loss: unguided, and guided by that loss."""
        rows: list[list[Panel]] = []
        for loss, guided in (("edge", EDGE), ("gram", GRAM), ("temporal", TEMPORAL)):
            ways = {UNGUIDED: OFF, GUIDED: guided}
            steps = {name: [[seen[loss] for seen in self.traces[way]]] for name, way in ways.items()}
            # Frame 1 is compared with a photograph, the others with noise: its values would dominate a common axis.
            first = 2 if loss == "temporal" else 1
            frames = {
                name: [self._line(way, seed, f"{loss}_loss")[first - 1 :] for seed in SEEDS]
                for name, way in ways.items()
            }
            left = Panel(f"{loss.title()} loss by step (frame 1, seed 0)", "updates so far", 0, steps)
            right = Panel(f"{loss.title()} loss by frame (median, range of the seeds)", "frame", first, frames)
            rows.append([left, right])
        return drawing("Guidance on the miniature", rows, {UNGUIDED: "#8a8a8a", GUIDED: "#1f6fb4"})

    def _line(self, variant: str, seed: int, metric: str) -> list[float]:
        return [getattr(scores, metric) for scores in self.courses[variant, seed]]


def measure(edit: QwenEdit) -> Quality:
    """Generate all frames. Takes two minutes on two cores."""
    shown = read_frames(WIDTH, HEIGHT, EVERY)[: EDGES + 1]
    cases = [(variant, seed) for variant in VARIANTS for seed in SEEDS]
    courses = {
        (variant, seed): asyncio.run(rolled(edit, shown, request(variant, seed)))
        for variant, seed in track(cases, description="quality")
    }
    return Quality(courses, {variant: trace(edit, shown, request(variant, SEEDS[0])) for variant in VARIANTS})


def request(variant: str, seed: int) -> EditRequest:
    return EditRequest(steps=STEPS, seed=seed, edge_filter="sobel", ttlg=VARIANTS[variant])


async def rolled(edit: QwenEdit, shown: Sequence[Frames], asked: EditRequest) -> Course:
    """Edit the first picture along the others as the graph does, with a new seed for each frame."""
    previous, course = shown[0], []
    for index, edges in enumerate(shown[1:], 1):
        one = asked.model_copy(update={"seed": asked.seed + index})
        async for item in edit.edit(one, previous, edges, shown[0]):
            if isinstance(item, Scores):
                course.append(replace(item, frame=index))
            elif isinstance(item, Frames):
                previous = item
    return course


def trace(edit: QwenEdit, shown: Sequence[Frames], asked: EditRequest) -> list[Mapping[str, float]]:
    """Return the losses of frame 1's predicted picture after each step, and of its result."""
    sampling = Sampling(edit, asked.model_copy(update={"seed": asked.seed + 1}), shown[0], shown[1])
    guidance = LossGuidance(asked.ttlg, sampling.decode, sampling.losses)
    found: list[Mapping[str, float]] = []

    @torch.no_grad()
    def note(latents: Tensor) -> None:
        picture = cast("Any", sampling.model)._decoder(latents) * 0.5 + 0.5
        found.append({name: float(loss) for name, loss in sampling.losses.of(picture).items()})

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        note(sampling.latents(predict_clean(pipe, tensors)))
        return guidance(pipe, step, timestep, tensors)

    guide: Guide = on_step_end
    note(sampling.run(guide))
    return found
