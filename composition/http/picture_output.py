"""OpenAI's fields for the file format of the pictures in a response, and the writing of these pictures."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from composition.jobs.provenance import read_lora_hashes
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings
from composition.media.encode_picture import BEST, encode_picture
from composition.media.formats import PictureFormat
from composition.media.marks.provenance import Ingredient, ModelUse, Provenance
from composition.records.store import make_id
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, JsonValue, StageDone


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


@dataclass(frozen=True)
class PictureOrigin:
    """How the pictures of a response are made, as far as the request tells."""

    task: str
    """Id of the model that the request named, or that was chosen for it."""
    stage: ModelUse | None = None
    """The model that makes the pictures; None if the end of its stage comes before them."""
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    ingredients: Sequence[Ingredient] = ()


NO_ORIGIN = PictureOrigin("")


class PictureWriter:
    """Writes the pictures of a response as files, with their marks.

    Args:
        form: the file format.
        outputs: how the files are marked.
        origin: how the pictures are made.
    """

    def __init__(
        self, form: PictureOutput, outputs: OutputSettings = DEFAULT_OUTPUTS, origin: PictureOrigin = NO_ORIGIN
    ) -> None:
        self._form = form
        self._outputs = outputs
        self._origin = origin
        self._id = make_id("image")
        self._stages: list[ModelUse] = []
        self._facts: dict[str, JsonValue] = {}

    def add(self, item: Item) -> None:
        """Note what an item of a model tells about how the pictures are made."""
        match item:
            case Fact():
                self._facts[item.name] = item.value
            case StageDone():
                self._stages.append(ModelUse(item.stage, item.model, item.source, item.revision))
            case _:
                pass

    async def write(self, picture: Frames, name: str, seed: int | None = None) -> str:
        """Return a picture as a file in the requested format, in base64.

        Args:
            picture: one frame.
            name: what distinguishes it from the other pictures of the response.
            seed: the seed that generates it.

        Raises:
            ModelFailed: signing failed.
        """
        form, marker = self._form.output_format, self._outputs.marker
        pixels = self._outputs.draw_label(picture.pixels[0])
        data = await asyncio.to_thread(encode_picture, pixels, form, self._form.output_compression)
        if marker is not None:
            data = await marker.mark_bytes(data, form, self._describe(f"{self._id}/{name}.{form}", seed))
        return base64.b64encode(data).decode()

    def _describe(self, content_id: str, seed: int | None) -> Provenance:
        expected = [] if self._origin.stage is None else [self._origin.stage]
        return Provenance(
            content_id=content_id,
            created_at=datetime.now(UTC),
            task=self._origin.task,
            models=tuple(dict.fromkeys([*self._stages, *expected])),
            loras=read_lora_hashes(self._facts),
            seed=seed,
            prompts=self._origin.prompts,
            ingredients=self._origin.ingredients,
        )
