"""Safety checks of LoRA files: only safetensors inside the operator's folder are loaded."""

from pathlib import Path


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
