"""What the requests of several models have in common, and how a limit of the operator's is held."""

import json
import math
import secrets
from typing import Annotated, cast

from pydantic import Field

from services.errors import LimitExceeded

MAX_SEED = 2**63 - 1
MAX_TEXT = 8_000
"""Characters."""
MAX_STEPS = 1_000
JSON_SAFE = 2**53
"""Seeds are drawn below this: a JSON reader that knows only doubles still holds them exactly."""

Seed = Annotated[int, Field(ge=-1, le=MAX_SEED)]
Size = Annotated[str, Field(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]
"""`WIDTHxHEIGHT` in pixels."""


def from_json(value: object) -> object:
    """Read a form field that holds a JSON object as that object."""
    if not isinstance(value, str):
        return value
    try:
        return cast("object", json.loads(value))
    except (ValueError, RecursionError) as error:
        raise ValueError("must be a JSON object") from error


SHOWN = 60
"""Characters of a bad value that an error repeats."""


def shown(value: object) -> str:
    """Return the beginning of a bad value, for an error."""
    try:
        got = repr(value)
    except RecursionError:
        return "what is nested too deep to be shown"
    return got if len(got) <= SHOWN else f"{got[:SHOWN]}…"


def within(field: str, value: int, limit: int, unit: str) -> None:
    """Raise LimitExceeded, naming all of them, when `value` is beyond `limit`."""
    if value > limit:
        raise LimitExceeded(f"{field}: at most {limit} {unit}, got {value}", param=field)


def drawn(seed: int) -> int:
    """Return the seed, or one by chance where it is -1."""
    return secrets.randbelow(JSON_SAFE) if seed < 0 else seed


def fit(width: int, height: int, max_area: int, multiple: int) -> tuple[int, int]:
    """Return the (width, height) nearest to the given aspect, of at most `max_area` pixels, both a `multiple`.

    Pixels throughout. A picture so long that one side would vanish gets that side at one `multiple`.
    """
    longest = max(multiple, max_area // multiple // multiple * multiple)

    def whole(side: int) -> int:
        return min(longest, max(multiple, side // multiple * multiple))

    return whole(math.isqrt(max_area * width // height)), whole(math.isqrt(max_area * height // width))


def working_size(width: int, height: int, max_area: int) -> tuple[int, int]:
    """Return the (width, height) at which a picture is sampled: multiples of 16, nearest to its own within `max_area`.

    Pixels throughout.
    """
    scale = min(1.0, (max_area / (width * height)) ** 0.5)
    across, down = (max(32, round(side / 16) * 16) for side in (width, height))
    if scale == 1.0 and across * down <= max_area:
        return across, down
    return max(32, int(width * scale / 16) * 16), max(32, int(height * scale / 16) * 16)
