"""The C2PA manifest of a finished file: what it says about how the file was made.

Specification: C2PA 2.x, https://spec.c2pa.org. A file that no file of the user is part of has one action,
`c2pa.created`. Files that a model was given are ingredients with the relationship `inputTo` of that action. If the
result is an edited version of a file, this file is the `parentOf` ingredient of `c2pa.opened`, and `c2pa.edited`
follows. What C2PA has no field for is in an assertion of our own, `GENERATION`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from composition.media.marks.ingredients import PreparedIngredient
from composition.media.marks.labels import choose_source_type, read_system_version
from composition.media.marks.provenance import ModelUse, Provenance
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import GENERATION, SYSTEM

LOCAL = "path:"
"""Prefix of the source of weights in a local folder."""


def describe_file(
    provenance: Provenance, settings: MarksSettings, ingredients: Sequence[PreparedIngredient]
) -> dict[str, Any]:
    """Return the manifest definition of c2pa-rs for a finished file."""
    return {
        "claim_generator_info": [{"name": SYSTEM, "version": read_system_version()}],
        "title": provenance.content_id,
        "ingredients": [ingredient.define() for ingredient in ingredients if ingredient.archive is None],
        "assertions": [
            {"label": "c2pa.actions.v2", "created": True, "data": {"actions": _list_actions(provenance, ingredients)}},
            {
                "label": GENERATION,
                "created": True,
                "kind": "Json",
                "data": _describe_generation(provenance, settings, ingredients),
            },
        ],
    }


def _list_actions(provenance: Provenance, ingredients: Sequence[PreparedIngredient]) -> list[dict[str, Any]]:
    """Return the actions; the last one is the generation."""
    parents = [ingredient.label for ingredient in ingredients if ingredient.relationship == "parentOf"]
    inputs = [ingredient.label for ingredient in ingredients if ingredient.relationship == "inputTo"]
    generation: dict[str, Any] = {
        "action": "c2pa.edited" if parents else "c2pa.created",
        "when": _format_time(provenance.created_at),
        "softwareAgent": {"name": SYSTEM, "version": read_system_version()},
        "digitalSourceType": choose_source_type(provenance),
        "description": _describe_task(provenance),
    }
    if inputs:
        generation["parameters"] = {"ingredientIds": inputs}
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": parents}}
    return [opened, generation] if parents else [generation]


def _format_time(time: datetime) -> str:
    """Return a time in UTC, in the form of RFC 3339."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _describe_task(provenance: Provenance) -> str:
    models = ", ".join(dict.fromkeys(use.model for use in provenance.models))
    return f"Made by {SYSTEM}, {provenance.task}" + (f", with {models}" if models else "")


def _describe_generation(
    provenance: Provenance, settings: MarksSettings, ingredients: Sequence[PreparedIngredient]
) -> dict[str, Any]:
    """Return the data of our own assertion."""
    data: dict[str, Any] = {
        "contentId": provenance.content_id,
        "provider": settings.provider,
        "system": SYSTEM,
        "version": read_system_version(),
        "createdAt": _format_time(provenance.created_at),
        "task": provenance.task,
        "stages": list(dict.fromkeys(use.stage for use in provenance.models)),
        "models": [_describe_model(use) for use in provenance.models],
    }
    if provenance.loras:
        data["loras"] = [{"name": name, "sha256": digest} for name, digest in provenance.loras.items()]
    if provenance.seed is not None:
        data["seed"] = provenance.seed
    if ingredients:
        data["inputs"] = [ingredient.describe() for ingredient in ingredients]
    if provenance.lost_ingredients:
        data["deletedInputs"] = provenance.lost_ingredients
    if settings.prompts and provenance.prompts:
        data["prompts"] = dict(provenance.prompts)
    return data


def _describe_model(use: ModelUse) -> dict[str, str]:
    source = use.source
    if source.startswith(LOCAL):  # the folders of the server are nobody's business
        source = LOCAL + Path(source.removeprefix(LOCAL)).name
    return {"stage": use.stage, "model": use.model, "source": source, "revision": use.revision}
