"""The root of the requests that graphs run."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from composition.media.limits import MediaKind
from composition.variants import VIDEO
from services.errors import InvalidParameter
from services.limits import from_json
from services.model import Role


class GraphRequest(BaseModel):
    """What every graph, and every model alone, can be asked with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {}
    """The fields that hold media. By handle: a path or URL that the replica can open; `pictures` may lie in a folder.
    Over HTTP: a file id, a `data:` URL, or the multipart part of that name; `pictures` may be a list of these."""
    REFERENCE: ClassVar[str] = ""
    """The field that OpenAI's `input_reference` stands for."""
    STAGES: ClassVar[Mapping[str, float]] = {}
    """The stages of a run in their order, each with its share of the whole: an estimate, for progress."""
    OTHERS: ClassVar[tuple[str, ...]] = ()
    """The videos that a run may make beside its plain frames."""
    KEEPS_FRAMES: ClassVar[bool] = False
    """Whether each frame is kept without loss as soon as it is made: where it is costly, and the next is made of it."""
    SEGMENTS: ClassVar[tuple[int, int]] = (8, 32)
    """Frames in the output's first segment, which is short so that a player starts early, and in each later one."""
    WAITS: ClassVar[bool] = False
    """Whether a run mostly waits for jobs of its own making, which must find a runner beside it."""

    models: Annotated[Mapping[Role, str], BeforeValidator(from_json)] = Field(default_factory=dict[Role, str])
    """Role → the id of the model that takes it; by default the one that the configuration names."""

    @property
    def main(self) -> str:
        """The variant of the content that the request is for."""
        return VIDEO

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        """The videos that a stored request makes: plain frames, and OTHERS."""
        del params
        return {VIDEO, *cls.OTHERS}

    @property
    def shares(self) -> Mapping[str, float]:
        """The stages of this run."""
        return self.STAGES

    @property
    def wants(self) -> Mapping[str, Role]:
        """Field → the role whose model it needs, where the graph runs without one."""
        return {}

    def drop_unserved(self, roles: Collection[str]) -> Self:
        """Return the request without the fields that were not asked for and need a model of a role that is not served.

        Raises InvalidParameter where one was asked for.
        """
        missing = {name: role for name, role in self.wants.items() if role not in roles}
        for name, role in missing.items():
            if name in self.model_fields_set:
                raise InvalidParameter(f"{name}: no model for {role} is served here", param=name)
        return self.model_copy(update=dict.fromkeys(missing))

    @property
    def mentions(self) -> Mapping[str, str]:
        """Place in the request → the id of a picture that is named there."""
        return {}

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        """Return `fields` so that the video lasts OpenAI's `seconds`, as nearly as it can; as they are where it cannot.

        Args:
            seconds: above 0.
            fields: of the request, as they came, with the defaults behind them.
            rate: frames per second, for models that are not told one.
        """
        del rate
        return {**fields, "seconds": seconds}

    @classmethod
    def takes_seconds(cls) -> bool:
        """Return whether OpenAI's `seconds` can be asked for."""
        return "seconds" not in cls.lasting(1.0, {}, 1.0)

    @classmethod
    def spelled_out(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` with objects in place of what may be said shorter, so that defaults can stand behind them."""
        return dict(fields)

    @classmethod
    def turns_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
        """Return whether a stage is on, by its field: what it is asked with, or nothing where it is off.

        Args:
            stage: the field.
            fields: of a request, spelled out.
        """
        value = fields.get(stage, cls.model_fields[stage].default)
        return value is not None and value is not False

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check the request against its media, before anything is made. Raises InvalidParameter.

        Args:
            frames: media field → how many frames, or pictures, there are.
        """
