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

    models: Annotated[Mapping[Role, str], BeforeValidator(from_json)] = Field(default_factory=dict[Role, str])
    """Role → the id of the model that takes it; by default the one that the configuration names."""

    @property
    def main_variant(self) -> str:
        """The variant of the content that the request is for."""
        return VIDEO

    @classmethod
    def list_videos(cls, params: Mapping[str, Any], outputs: Collection[str]) -> set[str]:
        """Return the variants of the videos that a stored request produces.

        Args:
            params: the stored request.
            outputs: the variants that the graph can produce.
        """
        del params
        return set(outputs)

    def stage_shares(self, stages: Mapping[str, float]) -> Mapping[str, float]:
        """Return the stages of this request's run, each with its share of the run time.

        Args:
            stages: those of the graph.
        """
        return stages

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
    def mentioned_files(self) -> Mapping[str, str]:
        """Place in the request → the id of a picture that is named there."""
        return {}

    @classmethod
    def set_duration(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
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
        return "seconds" not in cls.set_duration(1.0, {}, 1.0)

    @classmethod
    def expand_shorthands(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` with objects in place of what may be said shorter, so that defaults can stand behind them."""
        return dict(fields)

    @classmethod
    def is_stage_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
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
