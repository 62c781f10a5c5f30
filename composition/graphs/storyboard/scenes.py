"""The plan of a storyboard, and the child jobs that make its scenes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any, TypeAlias

from composition.graphs.face_pose import NO_POSE, POSE
from composition.graphs.full_pipeline import GRAPH as PIPELINE
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.picture import PictureStages
from composition.graphs.storyboard.request import FILM, StoryboardRequest, field_of_audio, field_of_face
from composition.graphs.storyboard.script import Scene, Script
from composition.media.stitch import count_joined_frames, list_clip_starts
from composition.records.tables import Job
from composition.variants import VIDEO
from services.catalogue import KINDS
from services.errors import InvalidParameter
from services.frames import Fit, Sound
from services.hunyuan_dit.request import RestyleRequest
from services.limits import MAX_SEED, MAX_TEXT
from services.text_to_video.request import TextToVideoRequest
from services.wan.request import WanTextRequest

FilmRequest: TypeAlias = TextToVideoRequest | WanTextRequest
"""A request to a text-to-video model for a scene."""
FILM_REQUESTS: tuple[type[FilmRequest], ...] = (TextToVideoRequest, WanTextRequest)


@dataclass(frozen=True)
class StoryboardPlan:
    """A checked request with its script and prompts, and all defaults resolved."""

    request: StoryboardRequest
    parent: Job
    script: Script
    prompts: list[str]
    seed: int

    def make_job_id(self, scene: Scene) -> str:
        """Return the id of the scene's job. It is the same in every attempt, so that the job is created once."""
        return f"video_{hashlib.sha256(f'{self.parent.id}/{scene.scene_number}'.encode()).hexdigest()[:32]}"

    @property
    def rate(self) -> Fraction:
        """Frames per second of the video."""
        fps = self.request.animate.fps if self.request.animate else 1
        return Fraction(fps * self.request.interpolate)

    def fit(self, scene: Scene, width: int, height: int) -> Fit:
        """Return how the scene's clip is fitted into the video of the given size."""
        crossfade = round(Fraction(str(self.request.crossfade_s)) * self.rate)
        seconds = Fraction(str(scene.duration))
        return Fit(width, height, self.rate, seconds, blend=self.request.interpolate > 1, crossfade=crossfade)

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return count_joined_frames(self._clips)

    @property
    def _clips(self) -> list[tuple[int, Fraction, Fit]]:
        return [(1, self.rate, self.fit(scene, 1, 1)) for scene in self.script.scenes]

    def list_sounds(self, open_url: Callable[[str], str]) -> list[Sound]:
        """Return the sounds of the video: that of the whole, and those of the scenes.

        Args:
            open_url: returns the URL of a stored file, given its key.
        """
        media = self.parent.media
        whole = [Sound(open_url(media["audio"]), seconds=self.frames / self.rate)] if "audio" in media else []
        starts = zip(self.script.scenes, list_clip_starts(self._clips), strict=True)
        return whole + [
            Sound(open_url(media[field_of_audio(scene)]), start / self.rate, Fraction(str(scene.duration)))
            for scene, start in starts
            if scene.audio is not None
        ]


@dataclass(frozen=True)
class FilmModel:
    """The text-to-video model that makes the scenes, if they are not made by the full pipeline."""

    kind: str = "text-to-video"
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Default values of its request fields."""
    rate: float | None = None
    """Frames per second of its videos, if the model determines it and it is known."""

    @property
    def request(self) -> type[FilmRequest]:
        """The class of its requests."""
        return next(kind for kind in FILM_REQUESTS if KINDS[self.kind].find_offer(FILM, kind) is not None)


def make_scene_job(plan: StoryboardPlan, scene: Scene, index: int, film_model: FilmModel) -> Job:
    """Return the job that makes a scene's clip, either by the full pipeline or by a text-to-video model.

    Args:
        plan: the plan of the storyboard.
        scene: a scene of its script.
        index: index of the scene, from 0.
        film_model: the text-to-video model.
    """
    fields: dict[str, Any] = {"prompt": plan.prompts[index], "seed": (plan.seed + index) % (MAX_SEED + 1)}
    models = plan.request.models
    created_at = plan.parent.created_at + (index + 1) * 1e-6  # claimed in the order of the scenes, before later jobs
    job = Job(
        id=plan.make_job_id(scene), parent=plan.parent.id, owner=plan.parent.owner, created_at=created_at, media={}
    )
    if FILM in models:
        job.model = models[FILM]
        film = _make_film_request(plan, scene, fields, film_model)
        encoding = plan.request.encoding.model_dump(mode="json")
        job.params = {**film.model_dump(mode="json"), "models": {FILM: models[FILM]}, "encoding": encoding}
        return job
    request = _make_pipeline_request(plan, scene, fields, restyles="restyle" in models)
    job.model, job.params = PIPELINE.name, request.model_dump(mode="json")
    face = field_of_face(scene) if scene.face else "face"
    if face in plan.parent.media:
        job.media = {"face": str(plan.parent.media[face])}
        job.params["face"] = scene.face or plan.parent.params["face"]
    if request.pose_picture is not None:
        job.media[POSE] = str(plan.parent.media[POSE])
        job.params[POSE] = plan.parent.params[POSE]
    if request.main_variant != VIDEO:
        job.main = request.main_variant
    return job


def _make_pipeline_request(
    plan: StoryboardPlan, scene: Scene, fields: dict[str, Any], *, restyles: bool
) -> FullPipelineRequest:
    request = plan.request
    shared: dict[str, Any] = {name: getattr(request, name) for name in PictureStages.model_fields} | fields
    shared["animate"] = request.animate and request.animate.model_copy(
        update={"num_frames": count_scene_frames(scene, request.animate.fps, request.animate.num_frames)}
    )
    if scene.loras:
        shared["loras"] = scene.loras
    if scene.face:
        shared |= {"face": scene.face, "identity": None}
    if not shared["face"] and not shared["identity"]:
        shared[POSE] = NO_POSE
    if scene.style and restyles:
        restyle = request.restyle or RestyleRequest(prompt=scene.style)
        shared["restyle"] = restyle.model_copy(update={"prompt": scene.style})
    elif scene.style:
        shared["prompt"] = f"{shared['prompt']}, {scene.style}"[:MAX_TEXT]
    roles = {need.role for need in PIPELINE.roles}
    shared["encoding"] = request.encoding
    shared["models"] = {role: name for role, name in request.models.items() if role in roles}
    return FullPipelineRequest(**shared)


def _make_film_request(plan: StoryboardPlan, scene: Scene, fields: dict[str, Any], model: FilmModel) -> FilmRequest:
    request = plan.request
    for name in ("face", "identity", "loras", "restyle"):
        if getattr(request, name):
            raise InvalidParameter(
                f"{name}: must be empty, because a text-to-video model makes the scenes here", param=name
            )
    if scene.face or scene.loras:
        place = f"script.scenes.{scene.scene_number}"
        raise InvalidParameter(
            f"{place}: must have no face or lora, because a text-to-video model makes the scenes here", param=place
        )
    style = f", {scene.style}" if scene.style else ""
    defaults = {name: value for name, value in model.defaults.items() if name in model.request.model_fields}
    film = model.request.model_validate({**defaults, **fields, "prompt": f"{fields['prompt']}{style}"[:MAX_TEXT]})
    if isinstance(film, WanTextRequest):  # the checkpoint determines the rate
        enough = film.count_frames(scene.duration, model.rate) if model.rate else film.num_frames
        return film.model_copy(update={"num_frames": min(film.num_frames, enough)})
    fps = request.animate.fps if request.animate else film.fps
    return film.model_copy(update={"fps": fps, "num_frames": count_scene_frames(scene, fps, film.num_frames)})


def count_scene_frames(scene: Scene, fps: int, most: int) -> int:
    """Return the number of frames of a scene's clip: enough for its duration, but at most `most`.

    A clip that is shorter than its scene is played more slowly.
    """
    return max(2, min(most, ceil(Fraction(str(scene.duration)) * fps)))
