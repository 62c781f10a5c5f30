"""Fields that the requests of several models have in common, and the checks of operators' limits."""

import reprlib
import secrets
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from services.errors import InvalidParameter, LimitExceeded
from services.json_text import UnusableText, read_json_text

MAX_SEED = 2**63 - 1
MAX_TEXT = 8_000
"""Characters."""
MAX_STEPS = 1_000
MAX_RUN = 16
"""The most frames in one run."""
JSON_SAFE = 2**53
"""Drawn seeds stay below 2^53, so JSON readers that use doubles keep them exact."""

Seed = Annotated[int, Field(ge=-1, le=MAX_SEED)]
Size = Annotated[str, Field(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]
"""`WIDTHxHEIGHT` in pixels."""


def parse_json_object(value: object) -> object:
    """Read a form field that holds a JSON object as that object, within the memory that its request may take.

    Raises ValueError, PayloadTooLarge.
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
"""Characters of a bad value that an error repeats."""


def shorten(value: object) -> str:
    """Return the beginning of a bad value, for an error."""
    got = repr(value[: MAX_QUOTED + 1]) if isinstance(value, str) else _Beginning().repr(value)
    return got if len(got) <= MAX_QUOTED else f"{got[:MAX_QUOTED]}…"


class _Beginning(reprlib.Repr):
    """Writes the first items of lists and objects, and the ends of what else is long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxstring = self.maxlong = self.maxother = MAX_QUOTED


UNITS = {"max_new_tokens": "tokens", "n": "pictures", "num_frames": "frames", "steps": "steps"}
"""Fields that an operator may limit as they are → unit. Sizes are limited by `services.sizes`."""


def check_limit(field: str, value: int, limit: int, unit: str) -> None:
    """Raise LimitExceeded, naming all four, when `value` is beyond `limit`."""
    if value > limit:
        raise LimitExceeded(f"{field}: at most {limit} {unit}, got {value}", param=field)


def check_limits(request: BaseModel, limits: Mapping[str, int]) -> None:
    """Raise LimitExceeded when a field of UNITS is beyond its limit. `limits` is by field."""
    for field, unit in UNITS.items():
        if field in limits:
            check_limit(field, getattr(request, field), limits[field], unit)


def check_start(start: int, num_frames: int) -> None:
    """Raise InvalidParameter when `start`, the first frame to send, is none of the video's and not its end."""
    if not 0 <= start <= num_frames:
        raise InvalidParameter(f"start: must be 0 to {num_frames}, got {start}", param="start")


def draw_seed(seed: int) -> int:
    """Return the seed; a random one where it is -1."""
    return secrets.randbelow(JSON_SAFE) if seed < 0 else seed
