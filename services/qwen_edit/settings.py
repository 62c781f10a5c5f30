"""Settings of Qwen-Image-Edit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.levers import CheckpointSettings, Offload, Precision, StepCache

Trunk = Literal["random"] | Path
"""A file with torchvision's weights, or weights drawn from a fixed seed."""


class QwenEditSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Precision = "bfloat16"
    decoder_dtype: Precision | None = None
    """Of the decoder that guidance differentiates; by default `dtype`."""
    offload: Offload = "none"
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the transformer's blocks on first use, which then takes minutes."""
    step_cache: StepCache | None = None
    reference_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels to which every given picture is scaled for the VAE; the model was trained with the default."""
    condition_area: Annotated[int, Field(ge=56 * 56)] = 384 * 384
    """Pixels to which every given picture is scaled for Qwen2.5-VL."""
    vgg16: Trunk | None = None
    """VGG16, for the Gram loss; without it there is none."""
    lpips: Trunk | None = None
    """AlexNet, for the LPIPS scores; without it there are none."""
    tiny_decoder: Path | None = None
    """TAEHV's `taew2_1`, to be differentiated instead of the VAE's own decoder."""
    save_memory: bool = True
    """Compute the decoder's activations again in the backward pass instead of keeping them."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels at which a picture may be sampled."""
    max_steps: Annotated[int, Field(ge=1)] = 100
    max_inner_steps: Annotated[int, Field(ge=1)] = 10

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_area": self.max_area, "steps": self.max_steps}
