"""Reading the marks of a file. Runs in a decoder process: the file may be hostile."""

import json
from pathlib import Path
from typing import Any

from composition.media.marks.label_reading import read_labels
from composition.media.marks.manifest_reading import read_manifest


def read_marks(path: str, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return nothing, and the fields of `composition.media.marks.report.MarksReport` as JSON.

    Args:
        path: a file of any kind that may have a manifest.
        options: `trust_anchors` (in PEM, or None).

    Raises:
        OSError: the file cannot be read.
    """
    manifest = read_manifest(Path(path), options["trust_anchors"])
    return {}, _encode_report(manifest, read_labels(Path(path)))


def read_labels_alone(path: str, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the same for a file that has no manifest, which takes less memory. Raises OSError.

    Args:
        path: a file of any kind.
        options: not used.
    """
    del options
    return {}, _encode_report(None, read_labels(Path(path)))


def _encode_report(manifest: dict[str, Any] | None, labels: dict[str, Any]) -> bytes:
    return json.dumps({"manifest": manifest, "labels": labels or None}).encode()
