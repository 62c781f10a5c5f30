"""OpenAI's fields for the file format of the pictures in a response, and the encoding of these pictures."""

import asyncio
import base64
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from composition.media.encode_picture import BEST, encode_picture
from composition.media.formats import PictureFormat
from services.errors import InvalidParameter
from services.frames import Frames


def refuse_transparency(value: object) -> object:
    """Raise ValueError for OpenAI's background `transparent`."""
    if value == "transparent":
        raise ValueError("must be 'opaque' or 'auto': the models generate opaque pictures")
    return value


class PictureOutput(BaseModel):
    """The file format of the pictures in a response."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    output_format: PictureFormat = "png"
    """File format of the pictures."""
    output_compression: Annotated[int, Field(ge=0, le=BEST)] = BEST
    """Quality of JPEG and WebP; WebP is lossless at 100. Only 100 with PNG, which is lossless."""

    @model_validator(mode="after")
    def _check_compression(self) -> "PictureOutput":
        if self.output_format == "png" and self.output_compression != BEST:
            message = f"output_compression: must be {BEST} with output_format 'png', got {self.output_compression}"
            raise InvalidParameter(f"{message}; jpeg and webp can be compressed more", param="output_compression")
        return self

    async def encode(self, picture: Frames) -> str:
        """Return a picture in the requested format, in base64."""
        form, quality = self.output_format, self.output_compression
        data = await asyncio.to_thread(encode_picture, picture.pixels[0], form, quality)
        return base64.b64encode(data).decode()
