"""LoRA files: only safetensors inside the operator's folder are loaded, and the record says which ones were used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

LORA_HASHES = "lora_sha256"
"""Name of the fact that says which LoRA files were used."""
LORA_NOTICE = "lora_notice"
"""Name of the fact that says which parts of them were not applied."""


class UnsafeLora(ValueError):
    """A LoRA file is not safe to load. The message names the file."""


def check_lora(name: str, path: Path, folder: Path | None) -> None:
    """Raise UnsafeLora unless a LoRA is a safetensors file inside a folder.

    Args:
        name: name of the LoRA in the error message.
        path: path of the file, with symbolic links resolved.
        folder: the folder that must contain the file; None allows any folder.
    """
    if path.suffix != ".safetensors":
        raise UnsafeLora(f"{name} must be a safetensors file: other formats can run code")
    if folder is not None and not path.is_relative_to(folder.resolve()):
        raise UnsafeLora(f"{name} must lie inside the LoRA directory {folder.name}")


def hash_lora(path: Path) -> str:
    """Return the SHA-256 of a LoRA file, in hex. Blocks for about a second per GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_loras(hashes: Mapping[str, str]) -> dict[str, str]:
    """Return the fact that says which LoRA files were used, by its name; nothing if there were none.

    Args:
        hashes: name of a LoRA → SHA-256 of its file, in hex.
    """
    return {LORA_HASHES: json.dumps(hashes, sort_keys=True)} if hashes else {}
