"""Converting pictures with an ICC profile to sRGB, with Pillow's littleCMS.

Runs only in decoder processes: profiles are untrusted, and littleCMS is native code.
"""

import io
from functools import cached_property
from typing import Any, cast

import numpy as np

from services.frames import Pixels

MIN_PROFILE_BYTES = 132
"""Size of the header of a profile and of its number of tags."""
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile → Pillow's mode of the pictures that it is for."""
SAME = 1
"""Largest difference of 8-bit values with which a profile counts as sRGB."""
MAX_NAME = 60
"""Maximum length of a profile's name, in characters."""


class Profile:
    """A usable ICC profile.

    Args:
        data: the profile.

    Raises:
        ValueError: the profile is damaged, or of another kind than RGB, grey and CMYK.
    """

    def __init__(self, data: bytes) -> None:
        from PIL import ImageCms

        if len(data) < MIN_PROFILE_BYTES:
            raise ValueError("the profile is too short")
        cms = cast("Any", ImageCms)
        try:
            profile = cms.ImageCmsProfile(io.BytesIO(data))
            space = profile.profile.xcolor_space.strip()
            if space not in MODES:
                raise ValueError(f"the profile is for {space}")
            self.mode = MODES[space]
            """Pillow's mode of the pictures that the profile is for."""
            self.name = _clean_name(cms.getProfileDescription(profile))
            self._transform = cms.buildTransform(
                profile,
                cms.createProfile("sRGB"),
                self.mode,
                "RGB",
                cms.Intent.PERCEPTUAL,
                cms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError) as error:
            raise ValueError("the profile is damaged") from error

    @cached_property
    def is_srgb(self) -> bool:
        """Whether the profile changes no colour visibly."""
        if self.mode == "CMYK":
            return False
        levels = np.linspace(0, 255, 18).round().astype(np.uint8)
        if self.mode == "L":
            return bool(np.abs(self.convert(levels[None])[0].astype(int) - levels[:, None]).max() <= SAME)
        grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        return bool(np.abs(self.convert(grid).astype(int) - grid).max() <= SAME)

    def convert(self, pixels: Pixels) -> Pixels:
        """Return pixels as (height, width, 3) sRGB.

        Args:
            pixels: (height, width, 3) RGB, (height, width) grey or (height, width, 4) CMYK, by `mode`.
        """
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(pixels), self.mode)
        return np.array(self._transform.apply(picture))


def open_profile(data: bytes | None) -> Profile | None:
    """Return a profile that is to be applied; None if it is missing, damaged or that of sRGB."""
    if data is None:
        return None
    try:
        profile = Profile(data)
    except ValueError:  # browsers ignore it as well
        return None
    return None if profile.is_srgb else profile


def read_cmyk(source: str | bytes) -> Pixels | None:
    """Return the pixels of a CMYK JPEG as (height, width, 4), in stored orientation.

    FFmpeg returns such pictures as RGB only. Returns None if Pillow cannot read the file.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=("JPEG",)) as picture:
            return np.array(picture) if picture.mode == "CMYK" else None
    except (OSError, SyntaxError, ValueError):
        return None


def _clean_name(name: str) -> str:
    """Return a profile's name on one line, without control characters."""
    words = "".join(letter if letter.isprintable() else " " for letter in name).split()
    return " ".join(words)[:MAX_NAME] or "without a name"
