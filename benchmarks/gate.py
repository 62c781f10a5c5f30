"""Measures what a gate does to a rolling edit by the trained miniature: the worst frame, and the cost."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from benchmarks.report import Goal, Report, Row
from miniatures import world
from miniatures.scores.qwen_edit import judge_picture
from miniatures.studio import Studio, frames_of
from services.frames import Scores
from services.qwen_edit.request import Guidance

STEPS = 8
EDGES = 8
"""Generated frames of each video."""
CALIBRATED, JUDGED = range(100, 110), range(10)
"""Seeds of the scenes from whose scores the maximum is taken, and of the scenes that are compared."""
QUANTILE = 3
"""The maximum is the third quartile of the scores without a gate."""
TRIES = (3, 5)
METHOD = f"""\
Rolling edits by the trained miniature, as served by the local configuration but not guided, along the edges of
{len(JUDGED)} drawn scenes outside the training set: {EDGES} frames each, in {STEPS} steps. The maximum of `edge_loss`
is the third quartile of the frames of {len(CALIBRATED)} other scenes. *worst*: the highest edge loss of a video, its
mean and largest over the videos; *above*: share of frames above the maximum; *place*: share of last frames whose
figure is within 3 pixels of where the edges have it, which no score measures; *pictures*: pictures made for each
frame, the cost."""


@dataclass(frozen=True)
class Edited:
    """One rolling edit."""

    losses: Sequence[float]
    """Edge loss of each kept frame."""
    pictures: int
    """Number of pictures made."""
    in_place: float
    """1 if the figure of the last frame is where it should be, otherwise 0."""


def measure() -> Report:
    """Edit all scenes, without a gate and with gates of several tries. Takes minutes on two cores."""
    studio = Studio()
    free = edit_scenes(studio, CALIBRATED, None)
    losses = [loss for each in free for loss in each.losses]
    maximum = round(statistics.quantiles(losses, n=4)[QUANTILE - 1], 3)
    results: dict[str, list[Edited]] = {"none": edit_scenes(studio, JUDGED, None)}
    for tries in TRIES:
        results[f"{tries} tries"] = edit_scenes(studio, JUDGED, {"edge_loss": maximum, "tries": tries})
    rows = [describe(name, found, maximum) for name, found in results.items()]
    none, three = (statistics.fmean(max(each.losses) for each in results[name]) for name in ("none", "3 tries"))
    goals = [Goal("worst frame's edge loss, 3 tries over none", three / none, 0.95, at_most=True)]
    samples = {name: [max(each.losses) for each in found] for name, found in results.items()}
    method = f"{METHOD} The maximum was {maximum:g}."
    return Report("Gate of a rolling edit", method, rows, goals, samples, ("torch", "diffusers"))


def edit_scenes(studio: Studio, seeds: Iterable[int], gate: Mapping[str, Any] | None) -> list[Edited]:
    """Edit the scenes with these seeds."""
    return [edit_scene(studio, seed, gate) for seed in track(list(seeds), description=f"gate {gate}")]


def edit_scene(studio: Studio, seed: int, gate: Mapping[str, Any] | None) -> Edited:
    """Edit the first frame of a scene along the edges of the others."""
    scene = world.draw(seed, figures=1)
    clip = scene.clip(EDGES + 1)
    files = {"init_frame": studio.file(clip[:1], "first"), "rgb_video": studio.file(clip, "clip")}
    fields: dict[str, Any] = {"steps": STEPS, "seed": seed, "ttlg": Guidance(edge_scale=0), "edge_start": 1}
    items = studio.run("rolling-edit", **files, **fields, **({} if gate is None else {"gate": dict(gate)}))
    scores = [item for item in items if isinstance(item, Scores) and item.kept]
    losses = [each.edge_loss for each in scores if each.edge_loss is not None]
    place = judge_picture(scene, frames_of(items)[-1], EDGES)["place"]
    return Edited(losses, sum(each.tries for each in scores), place)


def describe(name: str, found: Sequence[Edited], maximum: float) -> Row:
    """Return the row of a way to edit."""
    worst = [max(each.losses) for each in found]
    losses = [loss for each in found for loss in each.losses]
    return {
        "gate": name,
        "worst, mean": statistics.fmean(worst),
        "worst, largest": max(worst),
        "mean": statistics.fmean(losses),
        "above": statistics.fmean(loss > maximum for loss in losses),
        "place": statistics.fmean(each.in_place for each in found),
        "pictures": sum(each.pictures for each in found) / len(losses),
    }
