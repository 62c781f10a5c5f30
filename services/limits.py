"""Field types and limits shared by the requests of several models."""

import reprlib
import secrets
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from services.errors import InvalidParameter, LimitExceeded
from services.json_text import UnusableText, read_json_text

MAX_SEED = 2**63 - 1
MAX_TEXT = 8_000
"""Characters of a text field."""
MAX_STEPS = 1_000
MAX_RUN = 16
"""Maximum number of frames in one run."""
JSON_SAFE = 2**53
"""Random seeds are below 2^53, so that JSON parsers which use doubles represent them exactly."""

Seed = Annotated[int, Field(ge=-1, le=MAX_SEED)]
Size = Annotated[str, Field(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]
"""`WIDTHxHEIGHT` in pixels."""
PictureFit: TypeAlias = Literal["pad", "crop", "stretch"]
"""How a picture is fitted into frames of another shape; see `services.framing`."""


def parse_json_object(value: object) -> object:
    """Parse the JSON of a form field; return a value that is not a string unchanged.

    Raises:
        ValueError: the text is not valid JSON.
        PayloadTooLarge: the values would exceed the request's memory allowance.
    """
    if not isinstance(value, str):
        return value
    try:
        return read_json_text(value)
    except LimitExceeded as error:
        raise ValueError(error.message) from error
    except UnusableText:
        raise
    except ValueError as error:
        raise ValueError("must be a JSON object") from error


MAX_QUOTED = 60
"""Characters of an invalid value that an error message quotes."""


def shorten(value: object) -> str:
    """Return the beginning of an invalid value, for an error message."""
    got = repr(value[: MAX_QUOTED + 1]) if isinstance(value, str) else _Beginning().repr(value)
    return got if len(got) <= MAX_QUOTED else f"{got[:MAX_QUOTED]}…"


class _Beginning(reprlib.Repr):
    """Formats a value with the first items of its lists and objects; abbreviates other long values in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxstring = self.maxlong = self.maxother = MAX_QUOTED


UNITS = {"max_new_tokens": "tokens", "n": "pictures", "num_frames": "frames", "steps": "steps"}
"""Field with an operator's limit → unit. `services.sizes` checks the limits of sizes."""


def check_limit(field: str, value: int, limit: int, unit: str) -> None:
    """Raise LimitExceeded if `value` is above `limit`. The message has all four arguments."""
    if value > limit:
        raise LimitExceeded(f"{field}: at most {limit} {unit}, got {value}", param=field)


def check_limits(request: BaseModel, limits: Mapping[str, int]) -> None:
    """Raise LimitExceeded if a field of UNITS is above its limit. `limits` maps field names to limits."""
    for field, unit in UNITS.items():
        if field in limits:
            check_limit(field, getattr(request, field), limits[field], unit)


def check_start(start: int, num_frames: int) -> None:
    """Raise InvalidParameter if `start`, the index of the first frame to send, is not in 0 to `num_frames`."""
    if not 0 <= start <= num_frames:
        raise InvalidParameter(f"start: must be 0 to {num_frames}, got {start}", param="start")


def draw_seed(seed: int) -> int:
    """Return `seed`, or a random seed if it is -1."""
    return secrets.randbelow(JSON_SAFE) if seed < 0 else seed
