"""Scores of Qwen-Image-Edit: edits along edges and by captions, the effect of guidance, and drift in rolling edits."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy import ndimage

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import Picture, background_of, psnr, shapes_in
from miniatures.studio import Studio, frames_of
from miniatures.world import Scene, find_matching
from services.frames import Frames, Scores
from services.qwen_edit.request import EditRequest, Guidance

STEPS, LATER = 8, 4
"""Denoising steps; frames from a picture to its target, and frames of a rolling edit."""
NEAR = 3.0
"""Largest position error of a figure, in pixels."""
ROLLED = 5
"""Every nth scene is used for a rolling edit."""
OFF, EDGE, GRAM = Guidance(edge_scale=0), Guidance(), Guidance(edge_scale=0, gram_scale=1)


def scores(folder: Path, count: int = 30) -> dict[str, float]:
    """Return shares, decibels, losses and distances; `edge_ratio` is the edge loss with guidance over that without.

    Edges are drawn, or with `sobel` in the name computed from the target picture. `drift` is how far the colours
    of figure and background have moved at the end of a rolling edit, in RGB levels. LPIPS is measured in
    rolling edits guided by edges, with the untrained trunk of the local configuration. Names that begin with `drift`,
    `rolled` and `lpips` use a fifth of the scenes.
    """
    studio = Studio(checkpoints=folder)
    found: dict[str, list[float]] = {}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        measured = {**follow_edges(studio, scene, seed), **recolour_scene(studio, scene, seed)}
        if seed % ROLLED == 0:
            measured |= roll_scene(studio, scene, seed)
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    result = {name: fmean(values) for name, values in found.items()}
    for name in ("edge", "sobel"):
        pairs = list(zip(found[f"{name}_loss_guided"], found[f"{name}_loss"], strict=True))
        result[f"{name}_ratio"] = result[f"{name}_loss_guided"] / result[f"{name}_loss"]
        result[f"{name}_not_worse"] = fmean(guided <= without for guided, without in pairs)
    return result


def follow_edges(studio: Studio, scene: Scene, seed: int) -> dict[str, float]:
    """Redraw a picture along the edges of a later frame, with and without guidance."""
    first, true = scene.clip(1)[0], scene.clip(1, start=LATER)[0]
    lines = scene.edges(1, start=LATER)[0]
    result, unguided = edit_picture(studio, first, lines, seed=seed, ttlg=OFF)
    _, guided = edit_picture(studio, first, lines, seed=seed, ttlg=EDGE)
    _, sobel = edit_picture(studio, first, true, seed=seed, ttlg=OFF, edge_filter="sobel")
    _, sobel_guided = edit_picture(studio, first, true, seed=seed, ttlg=EDGE, edge_filter="sobel")
    losses = {
        "edge_loss": unguided.edge_loss,
        "edge_loss_guided": guided.edge_loss,
        "sobel_loss": sobel.edge_loss,
        "sobel_loss_guided": sobel_guided.edge_loss,
    }
    known = {name: loss for name, loss in losses.items() if loss is not None}
    return {**judge_picture(scene, result, LATER), "psnr": psnr(result[None], true[None]), **known}


def recolour_scene(studio: Studio, scene: Scene, seed: int) -> dict[str, float]:
    """Recolour by a caption, along edges and without edges; without them all else must stay unchanged."""
    figure = scene.figures[0]
    colours = [name for name in find_matching(*scene.background) if name != figure.colour]
    if not colours:
        return {}
    wanted = replace(scene, figures=(replace(figure, colour=colours[seed % len(colours)]),))
    first, prompt = scene.clip(1)[0], caption(wanted)
    result, _ = edit_picture(studio, first, wanted.edges(1, start=LATER)[0], seed=seed, prompt=prompt, ttlg=OFF)
    alone, _ = edit_picture(studio, first, None, seed=seed, prompt=prompt, ttlg=OFF)
    results = {"recoloured": judge_picture(wanted, result, LATER), "caption": judge_picture(wanted, alone, 0)}
    return {f"{kind}_{name}": value for kind, result in results.items() for name, value in result.items()}


def roll_scene(studio: Studio, scene: Scene, seed: int) -> dict[str, float]:
    """Run rolling edits along the edges of a video: unguided, and guided by each of two losses."""
    clip = scene.clip(LATER + 1)
    video = studio.file(clip, "clip")
    result: dict[str, float] = {}
    for name, guidance in (("", OFF), ("_edge", EDGE), ("_gram", GRAM)):
        fields: dict[str, Any] = {"steps": STEPS, "seed": seed, "ttlg": guidance}
        items = studio.run(
            "rolling-edit", init_frame=studio.file(clip[:1], "first"), rgb_video=video, edge_start=1, **fields
        )
        frames = frames_of(items)
        result[f"drift{name}"] = measure_drift(scene, frames[0], frames[-1])
        if guidance is EDGE:
            result |= {f"rolled_{key}": value for key, value in judge_picture(scene, frames[-1], LATER).items()}
            courses = [item for item in items if isinstance(item, Scores)]
            for measure in ("lpips_to_init", "lpips_to_prev"):
                result[measure] = fmean(value for one in courses if (value := getattr(one, measure)) is not None)
    return result


def edit_picture(studio: Studio, image: Picture, edges: Picture | None, **fields: Any) -> tuple[Picture, Scores]:
    """Edit a picture by the service with the configuration's defaults, and return it with its scores."""
    request = EditRequest.model_validate({**studio.models["qwen-edit"].defaults, "steps": STEPS, **fields})
    given = [Frames(np.ascontiguousarray(picture)[None]) for picture in (image, edges) if picture is not None]
    items = studio.call("qwen-edit", "edit", request, *given)
    return frames_of(items)[0], next(item for item in items if isinstance(item, Scores))


def judge_picture(scene: Scene, result: Picture, time: float) -> dict[str, float]:
    """Compare a picture with a scene at `time`: one number per property, to be averaged."""
    figure = scene.figures[0]
    x, y, _ = (float(value[0]) for value in figure.at(np.array([time])))
    seen = shapes_in(result, 1)
    return {
        "shape": float(bool(seen) and seen[0].shape == figure.shape),
        "colour": float(bool(seen) and seen[0].colour == figure.colour),
        "place": float(bool(seen) and bool(np.hypot(seen[0].x - x, seen[0].y - y) <= NEAR)),
        "background": float(background_of(result) == scene.background),
    }


def measure_drift(scene: Scene, first: Picture, last: Picture) -> float:
    """Return the mean change of the figure's and the background's colour, as a distance in RGB levels."""
    then, now = (scene.masks(1, start=time)[0, 0] for time in (0, LATER))
    inside = [np.asarray(ndimage.binary_erosion(mask, iterations=3), bool) for mask in (then, now)]
    outside = ~np.asarray(ndimage.binary_dilation(then | now, iterations=3), bool)
    before, after = first.astype(float), last.astype(float)
    figure = np.median(after[inside[1]], axis=0) - np.median(before[inside[0]], axis=0)
    background = np.median((after - before)[outside], axis=0)
    return float(np.linalg.norm(figure) + np.linalg.norm(background)) / 2
