"""Reading the C2PA manifest of any file. Runs only in decoder processes: the file may be hostile.

Only what this project reports is taken from the manifest, with a limit on each part.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from c2pa import C2paError, Context, Reader  # pyright: ignore[reportMissingTypeStubs]

from composition.media.marks.c2pa_settings import make_settings
from composition.media.marks.vocabulary import GENERATION, is_generated

MAX_ENTRIES = 100
"""Maximum number of actions, ingredients, models or failures that are reported."""
MAX_TEXT = 1000
"""Maximum length of a text, in characters."""
MAX_PROMPT = 10_000
TRUSTED = "signingCredential.trusted"
UNTRUSTED = "signingCredential.untrusted"
"""C2PA's code of an intact manifest whose signer is not trusted."""
ACTIONS = ("c2pa.actions.v2", "c2pa.actions")
ABSENT = frozenset({"_C2paNotSupported", "_C2paManifestNotFound"})
"""Errors of c2pa for files that have no manifest, and for formats that it does not know."""

Json = Mapping[str, Any]


def read_manifest(path: Path, trust_anchors: str | None) -> dict[str, Any] | None:
    """Return the fields of `composition.media.marks.report.Manifest`; None if the file has no manifest.

    Args:
        path: a file of any kind that may have a manifest, see `store_search`.
        trust_anchors: certificates in PEM whose manifests are trusted.

    Raises:
        OSError: the file cannot be read.
        MemoryError: reading it needs more memory than the process has.
    """
    try:
        with path.open("rb") as file, Context.from_json(make_settings(trust_anchors)) as context:
            reader = Reader.try_create(file, context=context)
            if reader is None:
                return None
            with reader:
                store = cast("Json", json.loads(reader.json()))
    except C2paError as error:
        if "out of memory" in str(error):
            raise MemoryError from error
        return None if type(error).__name__ in ABSENT else {"state": "invalid", "failures": [_cut(str(error))]}
    return describe_store(store)


def describe_store(store: Json) -> dict[str, Any]:
    """Return the fields of `Manifest` for the active manifest of a store, in c2pa-rs's JSON."""
    manifests = _object(store.get("manifests"))
    manifest = _object(manifests.get(str(store.get("active_manifest"))))
    actions = [_describe_action(action) for action in _list_actions(manifest)]
    generation = _find_assertion(manifest, GENERATION)
    signature = _object(manifest.get("signature_info"))
    return {
        "state": _STATES.get(str(store.get("validation_state")), "invalid"),
        "failures": _list_failures(store),
        "issuer": _text(signature.get("issuer")),
        "generated_at": _find_time(signature, generation, actions),
        "generator": _describe_generator(manifest),
        "title": _text(manifest.get("title")),
        "digital_source_type": _choose_source_type(actions),
        "provider": _text(generation.get("provider")),
        "content_id": _text(generation.get("contentId")),
        "task": _text(generation.get("task")),
        "seed": generation.get("seed") if isinstance(generation.get("seed"), int) else None,
        "models": [
            {name: _text(model.get(name)) or "" for name in ("stage", "model", "source", "revision")}
            for model in _objects(generation.get("models"))
        ],
        "loras": [
            {name: _text(lora.get(name)) or "" for name in ("name", "sha256")}
            for lora in _objects(generation.get("loras"))
        ],
        "prompts": {
            _cut(name): str(prompt)[:MAX_PROMPT]
            for name, prompt in list(_object(generation.get("prompts")).items())[:MAX_ENTRIES]
        },
        "actions": actions,
        "ingredients": [_describe_ingredient(each, store) for each in _objects(manifest.get("ingredients"))],
    }


_STATES = {"Trusted": "trusted", "Valid": "valid", "Invalid": "invalid"}


def _describe_action(action: Json) -> dict[str, Any]:
    agent = action.get("softwareAgent")
    return {
        "action": _text(action.get("action")) or "",
        "digital_source_type": _text(action.get("digitalSourceType")),
        "when": _text(action.get("when")),
        "software": _text(agent) or _name_program(_object(agent)),
        "description": _text(action.get("description")),
    }


def _describe_ingredient(ingredient: Json, store: Json) -> dict[str, Any]:
    label = ingredient.get("active_manifest")
    manifest = _object(_object(store.get("manifests")).get(str(label)))
    actions = [_describe_action(action) for action in _list_actions(manifest)]
    return {
        "title": _text(ingredient.get("title")),
        "format": _text(ingredient.get("format")),
        "relationship": _text(ingredient.get("relationship")),
        "state": _find_state(ingredient, store) if label else "not_present",
        "issuer": _text(_object(manifest.get("signature_info")).get("issuer")),
        "digital_source_type": _choose_source_type(actions),
    }


def _find_state(ingredient: Json, store: Json) -> str:
    """Return the state of an ingredient's manifest: what its user recorded, and what is found now.

    It is trusted only if the signer of the file is, who could have recorded anything.
    """
    recorded = _object(_object(ingredient.get("validation_results")).get("activeManifest"))
    found = [*_objects(recorded.get("failure")), *_objects(ingredient.get("validation_status"))]
    place = f"/{ingredient.get('active_manifest')}/"
    for delta in _list_deltas(store):
        found += [entry for entry in _objects(delta.get("failure")) if place in str(entry.get("url"))]
    failures = {str(entry.get("code")) for entry in found}
    if failures - {UNTRUSTED}:
        return "invalid"
    successes = {str(entry.get("code")) for entry in _objects(recorded.get("success"))}
    is_trusted = TRUSTED in successes and not failures and store.get("validation_state") == "Trusted"
    return "trusted" if is_trusted else "valid"


def _list_failures(store: Json) -> list[str]:
    """Return the codes of what failed, of the active manifest and then of ingredients, each once."""
    results = _object(store.get("validation_results"))
    checked = [_object(results.get("activeManifest")), *_list_deltas(store)]
    codes = [_text(entry.get("code")) for each in checked for entry in _objects(each.get("failure"))]
    return list(dict.fromkeys(code for code in codes if code))[:MAX_ENTRIES]


def _list_deltas(store: Json) -> list[Json]:
    """Return what is found in the manifests of ingredients beside what was recorded when they were used."""
    results = _object(store.get("validation_results"))
    return [_object(delta.get("validationDeltas")) for delta in _objects(results.get("ingredientDeltas"))]


def _list_actions(manifest: Json) -> list[Json]:
    for label in ACTIONS:
        if actions := _objects(_find_assertion(manifest, label).get("actions")):
            return actions
    return []


def _find_assertion(manifest: Json, label: str) -> Json:
    """Return the data of an assertion; empty if there is none."""
    for assertion in _objects(manifest.get("assertions")):
        if assertion.get("label") == label:
            return _object(assertion.get("data"))
    return {}


def _choose_source_type(actions: list[dict[str, Any]]) -> str | None:
    """Return the digital source type of the last action that generated something, else of the first that has one."""
    found = [action["digital_source_type"] for action in actions if action["digital_source_type"]]
    generated = [each for each in found if is_generated(each)]
    return generated[-1] if generated else (found[0] if found else None)


def _find_time(signature: Json, generation: Json, actions: list[dict[str, Any]]) -> str | None:
    """Return when the content was generated, else when it was signed, in UTC; None if no time can be parsed."""
    times = (generation.get("createdAt"), *(action["when"] for action in actions), signature.get("time"))
    return next(filter(None, map(_parse_time, times)), None)


def _parse_time(value: object) -> str | None:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    if time.tzinfo is None:
        return None
    try:
        return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return None


def _describe_generator(manifest: Json) -> str | None:
    infos = _objects(manifest.get("claim_generator_info"))
    return _name_program(infos[0]) if infos else _text(manifest.get("claim_generator"))


def _name_program(info: Json) -> str | None:
    """Return the name and the version of a program."""
    return " ".join(filter(None, (_text(info.get("name")), _text(info.get("version"))))) or None


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _objects(value: object) -> list[Json]:
    entries = cast("list[object]", value) if isinstance(value, list) else []
    return [_object(entry) for entry in entries[:MAX_ENTRIES]]


def _text(value: object) -> str | None:
    return _cut(value) if isinstance(value, str) and value else None


def _cut(text: str) -> str:
    return text[:MAX_TEXT]
