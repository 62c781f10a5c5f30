"""Naming frames in messages and facts: `3, 7-9`."""

from collections.abc import Sequence
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
"""Index of the first and of the last frame."""


def list_ranges(indices: Sequence[int]) -> list[Range]:
    """Return the ranges of ascending indices."""
    ranges: list[Range] = []
    for index in indices:
        first = ranges.pop()[0] if ranges and index == ranges[-1][1] + 1 else index
        ranges.append((first, index))
    return ranges


def name_ranges(ranges: Sequence[Range], most: int) -> str:
    """Return ranges as text, `3, 7-9`; beyond `most` ranges the number of the others, `3, 7-9 and 2 more`."""
    named = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:most])
    return f"{named} and {len(ranges) - most} more" if len(ranges) > most else named
