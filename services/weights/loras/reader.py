"""Reading LoRA files in the layouts of their trainers."""

from pathlib import Path

from services.weights.loras.adaptation import Adaptation, Target


class LoraError(ValueError):
    """A file cannot be used as a LoRA of a transformer. The message says why; it does not name the file."""


def read_lora(path: Path, target: Target) -> Adaptation:
    """Read a LoRA file in any known layout, and check that all of it fits the transformer.

    Args:
        path: a safetensors file.
        target: the transformer.

    Raises:
        LoraError: the file is not a LoRA, has an unsupported kind (DoRA, LoKr, LoHa), or is for another model.
    """
    raise NotImplementedError
