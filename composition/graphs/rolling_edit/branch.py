"""Branching a rolling edit: a new edit that begins at a frame of an older one."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from composition.graphs.branching import FIELD, BranchFields, Inheritance, Origin
from composition.graphs.rolling_edit.request import RollingEditRequest
from services.limits import parse_json_object

FIRST, STYLE = "init_frame", "style_frame"
PICTURES = {FIRST, STYLE}
"""The media fields that hold no edges."""


class EditBranchFields(BranchFields):
    """Guidance and gate are parsed early as well, because their fields are merged one by one."""

    ttlg: Annotated[dict[str, Any], BeforeValidator(parse_json_object)] = Field(default_factory=dict[str, Any])
    gate: Annotated[dict[str, Any] | None, BeforeValidator(parse_json_object)] = None


def inherit_edit(origin: Origin, fields: Mapping[str, Any], media: Collection[str]) -> Inheritance:
    """Merge the older edit's request into the new one.

    The new edit begins at the older edit's frame unless it sets its own `init_frame`. If it sets no edges, it continues
    along the older edit's edges from that frame on.
    """
    has_edges = not PICTURES.issuperset(media)
    merged = {name: value for name, value in origin.params.items() if name not in {*RollingEditRequest.MEDIA, FIELD}}
    if has_edges:
        merged |= {"edge_start": 0, "max_frames": None}
    else:
        merged["edge_start"] = int(origin.params["edge_start"]) + origin.frame
        merged["max_frames"] = _count_remaining(origin)
    merged |= {**fields, "ttlg": _merge_objects(origin.params["ttlg"], fields.get("ttlg"))}
    if "gate" not in fields or fields["gate"] is not None:  # null turns it off
        merged["gate"] = _merge_objects(origin.params.get("gate"), fields.get("gate")) or None
    files = [] if has_edges else [name for name in origin.media if name not in PICTURES]
    frames: dict[str, int] = {}
    if FIRST not in media:
        frames[FIRST] = origin.frame
    if PICTURES.isdisjoint(media):
        if STYLE in origin.media:
            files.append(STYLE)
        elif origin.frame > 0:  # at frame 0 the first frame is its own style
            frames[STYLE] = 0
    return Inheritance(merged, files, frames)


def _count_remaining(origin: Origin) -> int | None:
    """Return how many frames the older edit still had to make, its frame included; None if it has no limit."""
    limit = origin.params.get("max_frames")
    return None if limit is None else max(1, int(limit) - origin.frame)


def _merge_objects(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of both objects; those of the new one take precedence."""
    return {**(old or {}), **(new or {})}
