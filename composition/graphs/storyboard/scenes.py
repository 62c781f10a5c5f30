"""What a storyboard is asked for, and the jobs that make its scenes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from composition.graphs.full_pipeline import GRAPH as PIPELINE
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.picture import Shooting
from composition.graphs.storyboard.request import FILM, StoryboardRequest, place_of
from composition.graphs.storyboard.script import Scene, Script
from composition.media.stitch import count_joined_frames
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import InvalidParameter
from services.frames import Fit
from services.hunyuan_dit.request import RestyleRequest
from services.limits import MAX_SEED, MAX_TEXT
from services.text_to_video.request import TextToVideoRequest


@dataclass(frozen=True)
class Board:
    """One storyboard, with everything decided that was left open."""

    request: StoryboardRequest
    parent: Job
    script: Script
    prompts: list[str]
    seed: int

    def id_of(self, scene: Scene) -> str:
        """Of the scene's job: the same whoever makes it, so that it is made once."""
        return f"video_{hashlib.sha256(f'{self.parent.id}/{scene.scene_number}'.encode()).hexdigest()[:32]}"

    @property
    def rate(self) -> Fraction:
        """Frames per second of the video."""
        fps = self.request.animate.fps if self.request.animate else 1
        return Fraction(fps * self.request.interpolate)

    def fit(self, scene: Scene, width: int, height: int) -> Fit:
        crossfade = round(Fraction(str(self.request.crossfade_s)) * self.rate)
        seconds = Fraction(str(scene.duration))
        return Fit(width, height, self.rate, seconds, blend=self.request.interpolate > 1, crossfade=crossfade)

    @property
    def frames(self) -> int:
        """Of the whole video."""
        return count_joined_frames([(1, self.rate, self.fit(scene, 1, 1)) for scene in self.script.scenes])


def job_of(board: Board, scene: Scene, index: int, film_defaults: Mapping[str, Any]) -> Job:
    """Return the job that makes a scene's clip: of the full pipeline, or of the text-to-video model that is bound.

    Args:
        board: the storyboard.
        scene: one of its script's.
        index: of the scene, from 0.
        film_defaults: of the text-to-video model, for what the storyboard does not say.
    """
    fields: dict[str, Any] = {"prompt": board.prompts[index], "seed": (board.seed + index) % (MAX_SEED + 1)}
    models = board.request.models
    made = board.parent.created_at + (index + 1) * 1e-6  # in the order of the scenes, and before what came later
    job = Job(id=board.id_of(scene), parent=board.parent.id, owner=board.parent.owner, created_at=made, media={})
    if FILM in models:
        job.model = models[FILM]
        film = _film(board, scene, fields, film_defaults)
        job.params = {**film.model_dump(mode="json"), "models": {FILM: models[FILM]}}
        return job
    asked = _pipeline(board, scene, fields, restyles="restyle" in models)
    job.model, job.params = PIPELINE.name, asked.model_dump(mode="json")
    place = place_of(scene) if scene.face else "face"
    if place in board.parent.media:
        job.media = {"face": str(board.parent.media[place])}
        job.params["face"] = scene.face or board.parent.params["face"]
    if asked.main != VIDEO:
        job.main = asked.main
    return job


def _pipeline(board: Board, scene: Scene, fields: dict[str, Any], *, restyles: bool) -> FullPipelineRequest:
    request = board.request
    shared: dict[str, Any] = {name: getattr(request, name) for name in Shooting.model_fields} | fields
    shared["animate"] = request.animate and request.animate.model_copy(
        update={"num_frames": frames_of(scene, request.animate.fps, request.animate.num_frames)}
    )
    if scene.loras:
        shared["loras"] = scene.loras
    if scene.face:
        shared |= {"face": scene.face, "identity": None}
    if scene.style and restyles:
        restyle = request.restyle or RestyleRequest(prompt=scene.style)
        shared["restyle"] = restyle.model_copy(update={"prompt": scene.style})
    elif scene.style:
        shared["prompt"] = f"{shared['prompt']}, {scene.style}"[:MAX_TEXT]
    roles = {need.role for need in PIPELINE.roles}
    shared["models"] = {role: name for role, name in request.models.items() if role in roles}
    return FullPipelineRequest(**shared)


def _film(board: Board, scene: Scene, fields: dict[str, Any], behind: Mapping[str, Any]) -> TextToVideoRequest:
    request = board.request
    for name in ("face", "identity", "loras", "restyle"):
        if getattr(request, name):
            raise InvalidParameter(f"{name}: scenes are made by text-to-video here, which takes none", param=name)
    if scene.face or scene.loras:
        place = f"script.scenes.{scene.scene_number}"
        raise InvalidParameter(
            f"{place}: scenes are made by text-to-video here, which takes no face or lora", param=place
        )
    style = f", {scene.style}" if scene.style else ""
    film = TextToVideoRequest.model_validate({**behind, **fields, "prompt": f"{fields['prompt']}{style}"[:MAX_TEXT]})
    fps = request.animate.fps if request.animate else film.fps
    return film.model_copy(update={"fps": fps, "num_frames": frames_of(scene, fps, film.num_frames)})


def frames_of(scene: Scene, fps: int, most: int) -> int:
    """How many frames a scene's clip is made with: enough for its time, at most as many as the model makes well.

    A clip that is shorter than its scene is shown slower.
    """
    return max(2, min(most, ceil(Fraction(str(scene.duration)) * fps)))
