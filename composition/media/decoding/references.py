"""How many frames the decoder of a video must keep, as the stream says: ITU-T H.264, 7.3.2.1, and H.265, 7.3.2.2."""

from collections.abc import Iterator

from composition.media.decoding.h264_fields import SPS_BYTES, BitReader, FieldPairs, split_units

HEVC_SPS = 33
"""Type of a sequence parameter set of H.265."""
LEVEL_BITS, PROFILE_BITS = 8, 88
MAX_LAYERS = 8
ARRAYS = 22
"""Place of the number of arrays in the decoder configuration of H.265 (ISO/IEC 14496-15, 8.3.3.1)."""


def read_references(codec: str, extradata: bytes | None) -> int | None:
    """Return the number of frames that a decoder keeps; None if the stream does not say.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the decoder configuration of the stream.
    """
    if codec == "h264":
        return FieldPairs(extradata).references
    if codec != "hevc" or not extradata:
        return None
    units = _list_configured(extradata) if extradata[0] == 1 else split_units(extradata, None)
    return next((_read_hevc(unit) for unit in units if unit and unit[0] >> 1 & 63 == HEVC_SPS), None)


def _list_configured(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units in a decoder configuration record."""
    at = ARRAYS + 1
    for _ in range(data[ARRAYS] if len(data) > ARRAYS else 0):
        count = int.from_bytes(data[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            yield data[at + 2 : at + 2 + min(size, SPS_BYTES)]
            at += 2 + size
            if at >= len(data):
                return


def _read_hevc(unit: bytes) -> int:
    """Return the size of the buffer of decoded pictures in a sequence parameter set."""
    bits = BitReader(unit[1:])  # the header of a unit has two bytes
    bits.read_bits(4)
    layers = bits.read_bits(3)
    bits.read_bits(1 + PROFILE_BITS + LEVEL_BITS)
    told = [bits.read_bits(2) for _ in range(MAX_LAYERS if layers else 0)][:layers]
    for flags in told:
        bits.read_bits((PROFILE_BITS if flags & 2 else 0) + (LEVEL_BITS if flags & 1 else 0))
    bits.read_golomb()  # its number
    if bits.read_golomb() == 3:  # chroma
        bits.read_bits(1)
    bits.skip_golombs(2)  # width and height
    if bits.read_bits(1):
        bits.skip_golombs(4)  # the part that is shown
    bits.skip_golombs(3)  # depth of luma and chroma, bits of the picture order count
    first = 0 if bits.read_bits(1) else layers
    most = 0
    for _ in range(first, layers + 1):
        most = max(most, bits.read_golomb() + 1)
        bits.skip_golombs(2)
    return most
