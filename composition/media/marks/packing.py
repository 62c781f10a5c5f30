"""Packing a user's file as an ingredient of a manifest. Runs in a decoder process: the file may be hostile.

The owner's process unpacks the archive when it signs. That is tried here first with the same library and the same
bytes, so that what would crash it, or take too much memory or time, costs a decoder only.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from c2pa import (  # pyright: ignore[reportMissingTypeStubs]
    Builder,
    C2paError,
    C2paSigningAlg,
    Context,
    Reader,
    Signer,
)

from composition.media.marks.c2pa_settings import make_settings
from services.errors import LimitExceeded, UndecodableMedia

SAMPLE = bytes.fromhex("47494638376101000100800100000000ffffff2c00000000010001000002024401003b")
"""A GIF of one pixel, to sign in the trial."""


def pack_ingredient(path: str, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return whether a file has a manifest, and an archive of c2pa-rs with it as the only ingredient.

    Args:
        path: the file.
        options: `definition` (of the ingredient, with a `label`), `mime`, `max_bytes` (of the archive), `trust_anchors`
            (in PEM, or None), and of the certificate that will sign `chain` and `algorithm`.

    Raises:
        UndecodableMedia: the manifest of the file cannot be read.
        LimitExceeded: the archive is too large.
    """
    try:
        with Context.from_json(make_settings(options["trust_anchors"])) as context:
            archive = _write_archive(path, options, context)
            if len(archive) > options["max_bytes"]:
                raise LimitExceeded(
                    f"the manifest of the file has {len(archive)} bytes; the limit is {options['max_bytes']}"
                )
            has_manifest = _has_manifest(archive, context)
            _try_archive(archive, options, context)
    except C2paError as error:
        raise UndecodableMedia(f"the manifest of the file cannot be read: {error}") from error
    return {"has_manifest": has_manifest}, archive


def _write_archive(path: str, options: dict[str, Any], context: Context) -> bytes:
    archive = BytesIO()
    with Builder({}, context=context) as builder, Path(path).open("rb") as file:
        cast("Any", builder).add_ingredient(options["definition"], options["mime"], file)
        builder.write_ingredient_archive(options["definition"]["label"], archive)
    return archive.getvalue()


def _has_manifest(archive: bytes, context: Context) -> bool:
    with Reader("application/c2pa", BytesIO(archive), context=context) as reader:
        store = json.loads(reader.json())
    (ingredient,) = store["manifests"][store["active_manifest"]]["ingredients"]
    return "active_manifest" in ingredient


def _try_archive(archive: bytes, options: dict[str, Any], context: Context) -> None:
    """Sign a small file that has the ingredient, with a signature of zeros."""
    action = {
        "action": "c2pa.created",
        "digitalSourceType": "http://c2pa.org/digitalsourcetype/empty",
        "parameters": {"ingredientIds": [options["definition"]["label"]]},
    }
    definition = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}
    algorithm = C2paSigningAlg[options["algorithm"].upper()]
    with (
        Builder(definition, context=context) as builder,
        Signer.from_callback(lambda _: bytes(64), algorithm, options["chain"]) as signer,
    ):
        builder.add_ingredient_from_archive(BytesIO(archive))
        builder.sign(signer, "image/gif", BytesIO(SAMPLE), BytesIO())
