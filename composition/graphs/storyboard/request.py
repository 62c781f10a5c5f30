"""The request of a storyboard."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from composition.graphs.face_pose import POSE, WORDS
from composition.graphs.full_pipeline.request import ROLES
from composition.graphs.picture import PictureStages, expand_stages
from composition.graphs.request import MediaRequest
from composition.graphs.storyboard.script import MAX_SCENE_S, MAX_SCENES, MAX_TOPIC, Scene, Script
from services.errors import InvalidParameter
from services.model import Role

FILM: Role = "text-to-video"
"""The role whose model makes the scenes if they are not made by the full pipeline."""


class StoryboardRequest(MediaRequest, PictureStages):
    """Make a video of several scenes from a script or a topic.

    The fields of the full pipeline apply to every scene that does not override them.
    """

    MEDIA = {"face": "image", POSE: "image", "audio": "sound"}  # noqa: RUF012
    WORDS = WORDS

    script: Script | None = None
    """`{title, scenes: [{scene_number, description, duration, face?, audio?, lora?, style?}]}`; `face` and `audio` are
    file ids."""
    topic: Annotated[str, Field(min_length=1, max_length=MAX_TOPIC)] | None = None
    """The subject of a script to be written; an alternative to `script`."""
    scenes: Annotated[int, Field(ge=1, le=MAX_SCENES)] | None = None
    """Number of scenes of the script of a topic. By default the writer chooses."""
    scene_s: Annotated[float, Field(gt=0, le=MAX_SCENE_S)] = 4.0
    """Duration of each scene in seconds if the sentences of the topic become the scenes."""
    write_prompts: bool = True
    """Let the language model, if one is served, turn each description into an image prompt."""
    fallback: Literal["placeholder", "error"] = "placeholder"
    """What to do if a scene fails: show a title card instead, or fail the whole job."""
    crossfade_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Duration of the cross-fade between scenes in seconds, at most half of either scene."""
    audio: str | None = None
    """Sound of the whole video, mixed with that of the scenes: a sound file, or a video with sound. It is cut off at
    the end of the video."""
    interpolate: Annotated[int, Field(ge=1, le=4)] = 1
    """Multiplies the frame rate of the scenes; the added frames are blends of their neighbours."""

    @model_validator(mode="after")
    def _check_script(self) -> "StoryboardRequest":
        if (self.script is None) == (self.topic is None):
            raise InvalidParameter("script: give either this or topic", param="script")
        if self.topic is not None and not self.topic.strip():
            raise InvalidParameter("topic: must not be blank", param="topic")
        if self.script is not None and self.scenes is not None:
            raise InvalidParameter("scenes: only valid with topic, because a script has its own scenes", param="scenes")
        if self.animate is None:
            raise InvalidParameter("animate: cannot be turned off, because a scene is a video", param="animate")
        return self

    @property
    def mentioned_files(self) -> Mapping[str, str]:
        scenes = self.script.scenes if self.script else ()
        return {field_of_face(scene): scene.face for scene in scenes if scene.face is not None}

    @property
    def mentioned_sounds(self) -> Mapping[str, str]:
        scenes = self.script.scenes if self.script else ()
        return {field_of_audio(scene): scene.audio for scene in scenes if scene.audio is not None}

    @property
    def wants(self) -> Mapping[str, Role]:
        has_faces = self.face is not None or bool(self.mentioned_files)
        is_set = {"face": has_faces, "restyle": self.restyle is not None, "upscale": self.upscale is not None}
        wanted: dict[str, Role] = {field: ROLES[field] for field, needed in is_set.items() if needed}
        return wanted if self.pose_picture is None else {**wanted, POSE: ROLES["face"]}

    @property
    def shows_face(self) -> bool:
        return super().shows_face or bool(self.mentioned_files)

    @classmethod
    def expand_shorthands(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return expand_stages(fields)


def field_of_face(scene: Scene) -> str:
    """Return the path of a scene's face field in the request."""
    return f"script.scenes.{scene.scene_number}.face"


def field_of_audio(scene: Scene) -> str:
    """Return the path of a scene's audio field in the request."""
    return f"script.scenes.{scene.scene_number}.audio"
