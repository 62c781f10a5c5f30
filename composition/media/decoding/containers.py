"""Opening a media file with FFmpeg, whichever of the supported versions of PyAV is installed."""

import io
from fractions import Fraction
from numbers import Rational
from typing import Any, cast

import av
from av.container import InputContainer

from composition.media.decoding.allowed_codecs import list_decoders
from composition.media.decoding.headers import Limits

METADATA: dict[str, str] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
"""Makes text in a file that is not UTF-8 no error. From PyAV 19 on, it never is one."""


def open_container(
    source: str | bytes,
    formats: str,
    limits: Limits,
    *,
    form: str | None = None,
    options: dict[str, str] | None = None,
) -> InputContainer:
    """Open a file to read it. Raises FFmpegError.

    Args:
        source: path or content of the file.
        formats: FFmpeg's names of the formats that it may have, separated by commas.
        limits: the codecs and protocols that are allowed. FFmpeg opens no others, also to find out about the file.
        form: the format that it is taken for; None to find out.
        options: options of its decoders.
    """
    container = cast("Any", av.open)(
        io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}",
        "r",
        format=form,
        options=options or {},
        container_options={
            "protocol_whitelist": ",".join(limits.protocols),
            "format_whitelist": formats,
            "codec_whitelist": list_decoders(limits),
        },
        **METADATA,
    )
    return cast("InputContainer", container)


def read_fraction(value: Rational | None) -> Fraction | None:
    """Return a fraction of PyAV, which has a type of its own from version 19 on; None for none and for 0."""
    return Fraction(int(value.numerator), int(value.denominator)) if value else None
