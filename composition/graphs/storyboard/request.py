"""What a storyboard is asked for."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from composition.graphs.full_pipeline.request import ROLES
from composition.graphs.picture import Shooting, switched
from composition.graphs.request import GraphRequest
from composition.graphs.storyboard.script import MAX_SCENE_S, MAX_SCENES, MAX_TOPIC, Scene, Script
from services.errors import InvalidParameter
from services.model import Role

FILM: Role = "text-to-video"
"""The role whose model makes the scenes, where it is not the full pipeline."""


class StoryboardRequest(GraphRequest, Shooting):
    """Film a script: a clip for each scene, all of them in one video.

    The full pipeline's fields hold for every scene that says nothing else.
    """

    MEDIA = {"face": "image"}  # noqa: RUF012
    STAGES = {"script": 0.03, "scenes": 0.97}  # noqa: RUF012
    WAITS = True

    script: Script | None = None
    """`{title, scenes: [{scene_number, description, duration, face?, lora?, style?}]}`; a `face` is a file id."""
    topic: Annotated[str, Field(min_length=1, max_length=MAX_TOPIC)] | None = None
    """What a script is to be written about, where none is given."""
    scenes: Annotated[int, Field(ge=1, le=MAX_SCENES)] | None = None
    """How many scenes the script of a topic is to have."""
    scene_s: Annotated[float, Field(gt=0, le=MAX_SCENE_S)] = 4.0
    """Seconds of each scene where a script is made of the topic's own sentences."""
    write_prompts: bool = True
    """Let the language model turn each description into the prompt of a picture, where one is served."""
    fallback: Literal["placeholder", "error"] = "placeholder"
    """What stands in for a scene that cannot be made: a card that says so, or nothing, and then all has failed."""
    crossfade_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Seconds in which a scene passes into the next; at most half of either."""
    interpolate: Annotated[int, Field(ge=1, le=4)] = 1
    """Times as many frames per second as the scenes are made with; those between are mixed of their neighbours."""

    @model_validator(mode="after")
    def _script_or_topic(self) -> "StoryboardRequest":
        if (self.script is None) == (self.topic is None):
            raise InvalidParameter("script: give either this or topic", param="script")
        if self.topic is not None and not self.topic.strip():
            raise InvalidParameter("topic: must not be blank", param="topic")
        if self.script is not None and self.scenes is not None:
            raise InvalidParameter("scenes: is only for a topic; a script has its own", param="scenes")
        if self.animate is None:
            raise InvalidParameter("animate: a scene is a video, so it cannot be turned off", param="animate")
        return self

    @property
    def mentions(self) -> Mapping[str, str]:
        scenes = self.script.scenes if self.script else ()
        return {place_of(scene): scene.face for scene in scenes if scene.face is not None}

    @property
    def wants(self) -> Mapping[str, Role]:
        faces = self.face is not None or bool(self.mentions)
        asked = {"face": faces, "restyle": self.restyle is not None, "upscale": self.upscale is not None}
        return {field: ROLES[field] for field, there in asked.items() if there}

    @classmethod
    def spelled_out(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return switched(fields)


def place_of(scene: Scene) -> str:
    """Where in a request a scene's face stands."""
    return f"script.scenes.{scene.scene_number}.face"
