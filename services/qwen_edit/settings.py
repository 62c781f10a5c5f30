"""Settings of Qwen-Image-Edit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.levers import Precision, StepCache
from services.weights.loras.settings import FixedLora, LoraSettings
from services.weights.web_file import WebFile

Trunk = Literal["random"] | WebFile | Path
"""A file with torchvision's weights, by path or by `{url, sha256}`, or `random` for weights
initialized from a fixed seed."""


class QwenEditSettings(LoraSettings[FixedLora]):
    """Settings of a replica."""

    dtype: Precision = "bfloat16"
    decoder_dtype: Precision | None = None
    """Precision of the decoder through which guidance backpropagates; by default `dtype`."""
    attention: str | None = None
    """Attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default diffusers chooses."""
    step_cache: StepCache | None = None
    reference_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Number of pixels to which each input image is scaled for the VAE; the model was trained with the default."""
    condition_area: Annotated[int, Field(ge=56 * 56)] = 384 * 384
    """Number of pixels to which each input image is scaled for Qwen2.5-VL."""
    vgg16: Trunk | None = None
    """VGG16, required for the Gram loss."""
    lpips: Trunk | None = None
    """AlexNet, required for the LPIPS scores."""
    tiny_decoder: WebFile | Path | None = None
    """TAEHV's `taew2_1`, a path or `{url, sha256}`, through which guidance backpropagates instead of the
    VAE's decoder."""
    save_memory: bool = True
    """Recompute the decoder's activations in the backward pass instead of storing them (gradient checkpointing)."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Largest number of pixels to sample."""
    max_steps: Annotated[int, Field(ge=1)] = 100
    max_inner_steps: Annotated[int, Field(ge=1)] = 10

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_area": self.max_area, "steps": self.max_steps}

    @property
    def unmeasured(self) -> Mapping[str, str]:
        needed = {"gram_loss": "vgg16", "lpips_to_init": "lpips", "lpips_to_prev": "lpips"}
        return {score: setting for score, setting in needed.items() if getattr(self, setting) is None}
