"""How a picture is painted and what becomes of it, as the full pipeline and the storyboard are asked for it."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, model_validator

from composition.graphs.identity import Identity
from services.errors import InvalidParameter
from services.flux.request import Painting
from services.hunyuan_dit.request import RestyleRequest
from services.limits import from_json
from services.realesrgan.request import UpscaleRequest
from services.svd.request import SvdRequest


def _switched(value: object) -> object:
    """Read what is turned on or off, and JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return from_json(value)
    if value in (True, "true"):
        return {}
    return None if value in (False, "false") else value


def _styled(value: object) -> object:
    """Read the same; any other text is the style's prompt."""
    value = _switched(value)
    return {"prompt": value} if isinstance(value, str) else value


def switched(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with objects, or `false`, in place of what may be said shorter; what is neither stays as it is."""
    read = dict(fields)
    for name, reading in (("restyle", _styled), ("animate", _switched), ("upscale", _switched)):
        if name in fields:
            try:
                value = reading(fields[name])
            except ValueError:  # said when the whole is read
                continue
            read[name] = False if value is None else value
    return read


class Shooting(Painting):
    """How a picture is painted, and what becomes of it. What is not wanted is `false`."""

    face: str | None = None
    """A picture of whoever is to be seen."""
    identity: Annotated[Identity | None, BeforeValidator(from_json)] = None
    """Whoever is to be seen, as `POST /v1/faces` has answered it; instead of `face`."""
    restyle: Annotated[
        RestyleRequest | None, BeforeValidator(_styled, json_schema_input_type=RestyleRequest | str | bool | None)
    ] = None
    """How HunyuanDiT paints the picture anew; a text is the style's prompt."""
    animate: Annotated[
        SvdRequest | None, BeforeValidator(_switched, json_schema_input_type=SvdRequest | bool | None)
    ] = SvdRequest()
    """How Stable Video Diffusion makes it move; `false` leaves it a picture."""
    upscale: Annotated[
        UpscaleRequest | None, BeforeValidator(_switched, json_schema_input_type=UpscaleRequest | bool | None)
    ] = UpscaleRequest()
    """How Real-ESRGAN enlarges the video; `false` leaves it as it is. A picture is enlarged where this is given."""

    @model_validator(mode="before")
    @classmethod
    def _a_picture_alone_is_not_enlarged(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        alone = "upscale" not in fields and _switched(fields.get("animate", True)) is None
        return {**fields, "upscale": False} if alone else fields

    @model_validator(mode="after")
    def _one_face(self) -> "Shooting":
        if self.face is not None and self.identity is not None:
            raise InvalidParameter("identity: give either this or face, not both", param="identity")
        return self
