"""Which LoRA files are safe to load: safetensors alone, inside the operator's folder."""

from pathlib import Path


class UnsafeLora(ValueError):
    """A file that must not be loaded. The message names it."""


def check_lora(name: str, path: Path, folder: Path | None) -> None:
    """Raise UnsafeLora unless a LoRA is a safetensors file that lies in a folder.

    Args:
        name: what the message calls it.
        path: where it lies, links followed.
        folder: where it must lie; None allows any place.
    """
    if path.suffix != ".safetensors":
        raise UnsafeLora(f"{name} must be a safetensors file: other formats can run code")
    if folder is not None and not path.is_relative_to(folder.resolve()):
        raise UnsafeLora(f"{name} must lie inside the LoRA directory {folder.name}")
