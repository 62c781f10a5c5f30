"""The base class of the requests that graphs run."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from composition.media.encoding import Encoding
from composition.media.fault_kinds import KINDS, FaultKind
from composition.media.limits import Background, MediaKind, MediaLimits
from composition.variants import VIDEO
from services.errors import InvalidParameter
from services.limits import parse_json_object
from services.model import Role


class GraphRequest(BaseModel):
    """The fields that every graph, and every single model, accepts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {}
    """Media field → the kind of media that it holds. The value is a path or URL that the replica can open, or a folder
    for `pictures`. Over HTTP it is a file id, a `data:` URL or a form part, or a list of these for `pictures`."""
    WORDS: ClassVar[Mapping[str, Collection[str]]] = {}
    """Media field → the words that it accepts instead of a medium."""
    REFERENCE: ClassVar[str] = ""
    """The media field that OpenAI's `input_reference` sets; empty if there is none."""

    models: Annotated[Mapping[Role, str], BeforeValidator(parse_json_object)] = Field(default_factory=dict[Role, str])
    """Role → id of the model to use. The default is set in the configuration."""
    encoding: Annotated[Encoding, BeforeValidator(parse_json_object)] = Encoding()
    """How the videos are encoded. Fields that are not given are those of the configuration."""

    @property
    def main_variant(self) -> str:
        """The variant of the main output, which is returned if no variant is requested."""
        return VIDEO

    @property
    def faults(self) -> Collection[FaultKind]:
        """Kinds of faults that are looked for in the frames of its videos; fewer if they follow a user's video."""
        return KINDS

    @property
    def given_frames(self) -> int:
        """Number of frames at the beginning of the video that are the user's own."""
        return 0

    @classmethod
    def list_videos(cls, params: Mapping[str, Any], outputs: Collection[str]) -> set[str]:
        """Return the variants of the videos that a stored request produces.

        Args:
            params: the stored request.
            outputs: the variants that the graph can produce (`Graph.outputs`).
        """
        del params
        return set(outputs)

    def stage_shares(self, stages: Mapping[str, float]) -> Mapping[str, float]:
        """Return the stages that run for this request, each with its share of the run time.

        Args:
            stages: all stages of the graph (`Graph.stages`).
        """
        return stages

    @property
    def wants(self) -> Mapping[str, Role]:
        """Field that is set → the optional role whose model it needs."""
        return {}

    def drop_unserved(self, roles: Collection[str]) -> Self:
        """Return the request without the default values of fields whose role has no model.

        Args:
            roles: the roles for which a model is served.

        Raises:
            InvalidParameter: the request itself sets such a field.
        """
        missing = {name: role for name, role in self.wants.items() if role not in roles}
        for name, role in missing.items():
            if name in self.model_fields_set:
                raise InvalidParameter(f"{name}: no model for {role} is served here", param=name)
        return self.model_copy(update=dict.fromkeys(missing))

    @classmethod
    def list_unused(cls, roles: Collection[str]) -> Collection[str]:
        """Return the fields that have no use with the served models.

        Args:
            roles: the roles for which a model is served.
        """
        del roles
        return ()

    def check_scores(self, unmeasured: Mapping[str, str]) -> None:
        """Check that the scores that the request depends on are measured.

        Args:
            unmeasured: score that the models do not measure → the setting that is missing.

        Raises:
            InvalidParameter: the request needs a score that is not measured.
        """

    @property
    def mentioned_files(self) -> Mapping[str, str]:
        """Path of a nested field → the id of the picture file that it names."""
        return {}

    @property
    def mentioned_sounds(self) -> Mapping[str, str]:
        """Path of a nested field → the id of the file whose sound it names."""
        return {}

    @classmethod
    def set_duration(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        """Return `fields` with the number of frames set so that the video lasts about `seconds`.

        Args:
            seconds: the duration, greater than 0 (OpenAI's field of that name).
            fields: the unvalidated fields of the request, with defaults.
            rate: frames per second of the model, if the request does not set it.
        """
        del rate
        return {**fields, "seconds": seconds}

    @classmethod
    def takes_seconds(cls) -> bool:
        """Return whether the request accepts OpenAI's `seconds`."""
        return "seconds" not in cls.set_duration(1.0, {}, 1.0)

    @classmethod
    def expand_shorthands(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Expand shorthands (`animate: true`) into objects, so that defaults can be merged in."""
        return dict(fields)

    @classmethod
    def is_stage_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
        """Return whether an optional stage runs.

        Args:
            stage: the field that holds the stage's request.
            fields: the fields of a request, with shorthands expanded.
        """
        value = fields.get(stage, cls.model_fields[stage].default)
        return value is not None and value is not False

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check the request against its media.

        Args:
            frames: media field → number of frames, or of pictures.

        Raises:
            InvalidParameter: the media do not suit the request.
        """


class MediaRequest(GraphRequest):
    """The field that every graph with media accepts."""

    KEPT_ALPHA: ClassVar[Collection[str]] = ()
    """The media fields whose transparency the result keeps, unless the request sets a background."""

    background: Background | None = None
    """What transparent media are shown on: `#rrggbb` or a basic colour name of CSS. The default is set in the
    configuration (white)."""


def apply_background(limits: MediaLimits, request: GraphRequest) -> MediaLimits:
    """Return the limits with the background of a request, if it sets one."""
    background = request.background if isinstance(request, MediaRequest) else None
    return limits if background is None else limits.model_copy(update={"background": background})
