"""Finding the fields of H.264 video that are stored in packets of their own.

FFmpeg splits field-coded video, as of camcorders and broadcasts, into one packet for each field, and decodes two of
them to one frame. Only the headers of slices tell which packets belong together (ITU-T H.264, 7.3 and 7.4.1.2.4).
"""

from collections.abc import Iterator
from dataclasses import dataclass

SLICE, IDR, SPS = 1, 5, 7
"""Types of NAL units: the first slice of a picture, the same of an IDR picture, a sequence parameter set."""
SLICE_BYTES, SPS_BYTES = 32, 1024
"""Bytes that are read of a NAL unit; its beginning says all that is needed."""
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles whose sequence parameter sets have the chroma format and scaling lists."""
MAX_FRAME_NUM_BITS = 16
START_CODE = b"\0\0\1"


class BitReader:
    """Reads the bits of a NAL unit behind its header.

    Args:
        unit: the NAL unit; reading past its end gives zeros.
    """

    def __init__(self, unit: bytes) -> None:
        payload = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._bits = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def read_bits(self, count: int) -> int:
        """Read an unsigned integer of `count` bits."""
        self._left -= count
        shifted = self._bits >> self._left if self._left >= 0 else self._bits << -self._left
        return shifted & ((1 << count) - 1)

    def read_golomb(self) -> int:
        """Read an unsigned integer in Exp-Golomb code."""
        zeros = 0
        while self._left > 0 and not self.read_bits(1):
            zeros += 1
        return (1 << zeros) - 1 + (self.read_bits(zeros) if zeros else 0)

    def skip_golombs(self, count: int) -> None:
        """Skip integers in Exp-Golomb code."""
        for _ in range(count):
            self.read_golomb()

    def read_signed_golomb(self) -> int:
        """Read a signed integer in Exp-Golomb code."""
        code = self.read_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True)
class Sequence:
    """What a sequence parameter set says about slices."""

    has_planes: bool
    """Whether slices name the colour plane that they belong to."""
    frame_num_bits: int
    """Number of bits of a frame's number."""
    may_have_fields: bool
    """Whether pictures may be fields."""
    references: int
    """Largest number of frames that a frame refers to."""


@dataclass(frozen=True)
class Field:
    """A picture that is a field."""

    frame_num: int
    is_bottom: bool


class FieldPairs:
    """Tells which packets of a video are the second field of a frame.

    Args:
        extradata: the decoder configuration of the stream.
    """

    def __init__(self, extradata: bytes | None) -> None:
        data = extradata or b""
        self._length_size = (data[4] & 3) + 1 if len(data) > 6 and data[0] == 1 else None
        units = [data[8 : 8 + SPS_BYTES]] if self._length_size else list(split_units(data, None))
        found = next((unit for unit in units if unit and unit[0] & 31 == SPS), None)
        self._sequence = read_sequence(found) if found else None
        self._first: Field | None = None

    @property
    def references(self) -> int | None:
        """Largest number of frames that a frame refers to; None if the stream does not say."""
        return self._sequence.references if self._sequence else None

    @property
    def may_exist(self) -> bool:
        """Whether the video may have fields in packets of their own."""
        return self._sequence is not None and self._sequence.may_have_fields

    def is_second(self, packet: bytes) -> bool:
        """Return whether a packet is the second field of the frame in the packet before it.

        Packets must be given in the order of decoding.
        """
        first, self._first = self._first, None
        unit = next((u for u in split_units(packet, self._length_size) if u and u[0] & 31 in (SLICE, IDR)), None)
        found = read_field(unit, self._sequence) if unit and self._sequence else None
        if found is None:
            return False
        if first and first.frame_num == found.frame_num and first.is_bottom != found.is_bottom:
            return True
        self._first = found
        return False


def split_units(data: bytes, length_size: int | None) -> Iterator[bytes]:
    """Yield each NAL unit, or its beginning.

    Args:
        data: a packet.
        length_size: bytes of the length in front of each unit; None if there are start codes instead.
    """
    if length_size is None:
        yield from (unit[:SPS_BYTES] for unit in data.split(START_CODE)[1:])
        return
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        yield data[position : position + min(length, SPS_BYTES)]
        position += length


def read_sequence(unit: bytes) -> Sequence:
    """Read a sequence parameter set."""
    bits = BitReader(unit)
    profile = bits.read_bits(8)
    bits.read_bits(16)  # constraints, level
    bits.read_golomb()  # its number
    has_planes = profile in HIGH_PROFILES and _skip_chroma(bits)
    frame_num_bits = min(bits.read_golomb() + 4, MAX_FRAME_NUM_BITS)
    order_type = bits.read_golomb()
    if order_type == 0:
        bits.read_golomb()
    elif order_type == 1:
        bits.read_bits(1)
        bits.skip_golombs(2)
        bits.skip_golombs(min(bits.read_golomb(), 255))
    references = bits.read_golomb()
    bits.read_bits(1)
    bits.skip_golombs(2)  # width and height
    return Sequence(has_planes, frame_num_bits, not bits.read_bits(1), references)


def _skip_chroma(bits: BitReader) -> bool:
    """Skip what high profiles say about chroma and scaling. Return whether colour planes are coded apart."""
    chroma = bits.read_golomb()
    has_planes = chroma == 3 and bool(bits.read_bits(1))
    bits.skip_golombs(2)  # depth of luma and chroma
    bits.read_bits(1)
    if bits.read_bits(1):
        for index in range(12 if chroma == 3 else 8):
            if bits.read_bits(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return has_planes


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    scale = 8
    for _ in range(size):
        scale = (scale + bits.read_signed_golomb()) % 256
        if scale == 0:
            return


def read_field(unit: bytes, sequence: Sequence) -> Field | None:
    """Read the header of a slice. Return the field that it belongs to; None if its picture is a frame."""
    bits = BitReader(unit[:SLICE_BYTES])
    bits.skip_golombs(3)  # position, type, picture parameter set
    if sequence.has_planes:
        bits.read_bits(2)
    frame_num = bits.read_bits(sequence.frame_num_bits)
    is_field = sequence.may_have_fields and bits.read_bits(1)
    return Field(frame_num, bool(bits.read_bits(1))) if is_field else None
