"""Under which terms the weights stand that the project can load, by the repository or pack that they come from.

A short account for whoever chooses a model; the terms themselves are at `url`, and they bind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Commercial = Literal["free", "restricted", "forbidden", "unknown"]
"""Whether one may earn money with it: as one likes, on conditions, or not without another contract."""


@dataclass(frozen=True, slots=True)
class Licence:
    """The terms of one set of weights."""

    name: str
    commercial: Commercial
    note: str
    url: str

    @property
    def must_be_accepted(self) -> bool:
        """Whether somebody should read it before the weights are used."""
        return self.commercial in ("restricted", "forbidden")

    def __str__(self) -> str:
        return f"{self.name} (commercial use: {self.commercial}; {self.note}; {self.url})"


def _apache(repository: str) -> Licence:
    return Licence("Apache-2.0", "free", "keep the notices", f"https://huggingface.co/{repository}")


def _hunyuan(repository: str) -> Licence:
    return Licence(
        "Tencent Hunyuan Community",
        "restricted",
        "not for every region, nor for the largest services, nor to improve other models",
        f"https://huggingface.co/{repository}/blob/main/LICENSE.txt",
    )


def _insightface() -> Licence:
    return Licence(
        "insightface model pack",
        "forbidden",
        "for non-commercial research only",
        "https://github.com/deepinsight/insightface#license",
    )


_APACHE = (
    "black-forest-labs/FLUX.1-schnell",
    "OpenGVLab/InternVL3_5-1B-HF",
    "OpenGVLab/InternVL3_5-2B-HF",
    "OpenGVLab/InternVL3_5-4B-HF",
    "OpenGVLab/InternVL3_5-8B-HF",
    "OpenGVLab/InternVL3_5-14B-HF",
    "OpenGVLab/InternVL3_5-38B-HF",
    "Qwen/Qwen-Image-Edit-2509",
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
)

LICENCES: Mapping[str, Licence] = {
    **{repository: _apache(repository) for repository in _APACHE},
    **{
        repository: _hunyuan(repository)
        for repository in (
            "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
            "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
        )
    },
    **{pack: _insightface() for pack in ("antelopev2", "buffalo_l")},
    "black-forest-labs/FLUX.1-dev": Licence(
        "FLUX.1 [dev] Non-Commercial",
        "forbidden",
        "running the model for money needs a licence of Black Forest Labs",
        "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    ),
    "ByteDance/InfiniteYou": Licence(
        "CC-BY-NC-4.0", "forbidden", "not for commercial use", "https://huggingface.co/ByteDance/InfiniteYou"
    ),
    "ali-vilab/text-to-video-ms-1.7b": Licence(
        "CC-BY-NC-4.0", "forbidden", "not for commercial use", "https://huggingface.co/ali-vilab/text-to-video-ms-1.7b"
    ),
    "stabilityai/stable-video-diffusion-img2vid-xt": Licence(
        "Stability AI Community",
        "restricted",
        "commercial use is free below a yearly revenue that the terms name, and needs a registration",
        "https://stability.ai/license",
    ),
    "realesr-animevideov3": Licence(
        "BSD-3-Clause", "free", "comes with the project", "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE"
    ),
}
"""Repository, or name of a pack → its terms."""

UNKNOWN = Licence("unknown", "unknown", "see the repository", "no address known")

_BY_LAST_PART = {name.rpartition("/")[2].lower(): licence for name, licence in LICENCES.items()}


def licence_of(source: str) -> Licence:
    """Return the terms of a repository or pack.

    Args:
        source: `owner/name`, a pack's name, or `path:FOLDER`. A folder, or the copy of another owner, is known by the
            last part of its name, because a clone is called like its repository.
    """
    found = _BY_LAST_PART.get(source.removeprefix("path:").rpartition("/")[2].lower())
    return LICENCES.get(source) or found or UNKNOWN
