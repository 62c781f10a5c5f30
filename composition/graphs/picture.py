"""The fields of the stages from prompt to upscaled video, which the full pipeline and the storyboard share."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, model_validator

from composition.graphs.face_pose import PosedFace, check_pose
from composition.graphs.identity import Identity
from services.errors import InvalidParameter
from services.flux.request import Painting
from services.hunyuan_dit.request import RestyleRequest
from services.limits import parse_json_object
from services.realesrgan.request import UpscaleRequest
from services.svd.request import SvdRequest


def _parse_stage(value: object) -> object:
    """Parse the field of a stage: `true`, `false`, or an object, also as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return parse_json_object(value)
    if value in (True, "true"):
        return {}
    return None if value in (False, "false") else value


def _parse_restyle(value: object) -> object:
    """Parse `restyle`: like any stage, but other text is the prompt of the style."""
    value = _parse_stage(value)
    return {"prompt": value} if isinstance(value, str) else value


def expand_stages(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Expand shorthands of the stages to objects or `false`; leave anything else unchanged."""
    expanded = dict(fields)
    for name, parse in (("restyle", _parse_restyle), ("animate", _parse_stage), ("upscale", _parse_stage)):
        if name in fields:
            try:
                value = parse(fields[name])
            except ValueError:  # reported when the request is validated
                continue
            expanded[name] = False if value is None else value
    return expanded


class PictureStages(Painting, PosedFace):
    """The stages that make a picture and a video from a prompt. `false` turns a stage off."""

    face: str | None = None
    """A picture of the person to show."""
    identity: Annotated[Identity | None, BeforeValidator(parse_json_object)] = None
    """The person to show, as `POST /v1/faces` returns it; an alternative to `face`."""
    restyle: Annotated[
        RestyleRequest | None,
        BeforeValidator(_parse_restyle, json_schema_input_type=RestyleRequest | str | bool | None),
    ] = None
    """Restyle the picture with HunyuanDiT. A text is the prompt of the style."""
    animate: Annotated[
        SvdRequest | None, BeforeValidator(_parse_stage, json_schema_input_type=SvdRequest | bool | None)
    ] = SvdRequest()
    """Animate the picture with Stable Video Diffusion. `false`: the result is a picture."""
    upscale: Annotated[
        UpscaleRequest | None, BeforeValidator(_parse_stage, json_schema_input_type=UpscaleRequest | bool | None)
    ] = UpscaleRequest()
    """Upscale the video with Real-ESRGAN. `false`: no upscaling. A picture is upscaled only if this is set."""

    @model_validator(mode="before")
    @classmethod
    def _upscale_picture_only_if_set(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        is_picture = "upscale" not in fields and _parse_stage(fields.get("animate", True)) is None
        return {**fields, "upscale": False} if is_picture else fields

    @model_validator(mode="after")
    def _check_face(self) -> "PictureStages":
        if self.face is not None and self.identity is not None:
            raise InvalidParameter("identity: give either this or face, not both", param="identity")
        check_pose(self, self.identity, has_face=self.shows_face)
        return self

    @property
    def shows_face(self) -> bool:
        """Whether a person is to be shown."""
        return self.face is not None or self.identity is not None
