"""What the decoder changes in the media of a request, as facts of the result."""

from collections.abc import Collection, Mapping

from services.frames import JsonValue

ALPHA = "alpha"

Changes = Mapping[str, JsonValue]
"""Name of a change → value, as in `composition.media.decode.MediaFacts.changes`."""


def set_background(changes: Changes, background: str | None) -> Changes:
    """Return the changes of a file as they are with the background of a request, if it sets one."""
    if background is None or ALPHA not in changes:
        return changes
    return {**changes, ALPHA: f"on {background}"}


def merge_changes(files: Mapping[str, Changes], kept_alpha: Collection[str] = ()) -> dict[str, JsonValue]:
    """Return the changes of several files as facts. Values that differ are listed by field: `image: hlg; face: pq`.

    Args:
        files: media field → the changes of its file.
        kept_alpha: the fields whose transparency the result keeps.
    """
    found: dict[str, dict[str, JsonValue]] = {}
    for field, changes in files.items():
        for name, value in changes.items():
            if name != ALPHA or field not in kept_alpha:
                found.setdefault(name, {})[field] = value
    return {name: _join_values(values) for name, values in found.items()}


def _join_values(values: Mapping[str, JsonValue]) -> JsonValue:
    """Return the value that all fields have in common, else all values by field."""
    first, *others = values.values()
    if all(other == first for other in others):
        return first
    return "; ".join(f"{field}: {value}" for field, value in values.items())
