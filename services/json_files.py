"""JSON files of checkpoints, read without the libraries that load them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast


def read_json_object(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file; empty if there is no such file, or no object in it.

    The loader of a model reports files that are missing or broken.
    """
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
