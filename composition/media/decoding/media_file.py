"""An open video or picture file: its properties, the index of its frames, and decoding frames by position.

Runs only in decoder processes (`composition.media.decoding.worker`): files are untrusted, and FFmpeg is native code.
"""

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from composition.media.cost import Cost, FrameForm, count_decoded, estimate_video
from composition.media.decoding.allowed_codecs import VIDEO_CONTAINERS, has_only_allowed, list_decoders, list_formats
from composition.media.decoding.apng import time_apng
from composition.media.decoding.containers import open_container, read_fraction
from composition.media.decoding.endings import is_cut
from composition.media.decoding.fitting import FrameConverter
from composition.media.decoding.frame_index import MATROSKA, MOV, TS, Index, read_index
from composition.media.decoding.headers import Limits, explain_unreadable, read_head, read_header
from composition.media.decoding.mp4_edits import check_edits
from composition.media.decoding.mp4_tracks import read_auxiliary_tracks
from composition.media.decoding.picture_cost import estimate_picture_file
from composition.media.decoding.picture_tags import read_tags
from composition.media.decoding.presentation import Presentation, choose_decoder, read_pixel_aspect
from composition.media.decoding.references import read_references
from composition.media.decoding.sampling import VERIFIED_FRAMES, spread_positions
from composition.media.decoding.sound import SoundTrack, name_sound
from composition.media.decoding.sound_file import open_track
from composition.media.decoding.timing import Timing
from composition.media.decoding.tracks import choose_video, list_videos
from services.errors import LimitExceeded, UndecodableMedia

THREADS = 2
PIXEL_BYTES = 8
"""Largest size of a decoded pixel: four samples of 16 bits."""
CUT_FRAMES = 2
"""Maximum number of frames at the end of a file that was cut short that need not be decodable."""
UNTRIED, MISSING, DECODED, FLAWED = range(4)


class Cursor:
    """Moves forward through decoded frames. A missing frame is replaced by the one before it.

    Args:
        frames: positions and frames, in order.
        begin: position where decoding began.
    """

    def __init__(self, frames: Generator[tuple[int, VideoFrame]], begin: int) -> None:
        self._frames = frames
        self._next: tuple[int, VideoFrame] | None = None
        self._current: VideoFrame | None = None
        self.begin = begin
        self.position = begin - 1
        """Position of the current frame."""

    def advance(self, position: int) -> VideoFrame | None:
        """Return the last frame at or before `position`; None if no frame since `begin` could be decoded."""
        while self.position < position and self.peek() is not None and self._next and self._next[0] <= position:
            (self.position, self._current), self._next = self._next, None
        return self._current

    def peek(self) -> VideoFrame | None:
        """Return the frame after the current one; None at the end."""
        self._next = self._next or next(self._frames, None)
        return self._next[1] if self._next else None

    def close(self) -> None:
        """Stop decoding."""
        self._frames.close()


class MediaFile:
    """An open video or picture file.

    Args:
        source: path or content of the file.
        limits: limits on the file.

    Raises:
        UndecodableMedia: the file is no video or picture, is truncated, or has no frame that can be decoded.
        LimitExceeded: the header or the packets exceed a limit.
    """

    def __init__(self, source: str | bytes, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._track: int | None = None
        head = read_head(source)
        self._header = read_header(head)
        if self._header.size is not None:
            limits.check_size(*self._header.size)
        self.cost = Cost(0, 0)
        """What decoding the file costs."""
        if self._header.may_be_picture and not self._header.is_sequence:
            self._reserve(estimate_picture_file(source, self._header, limits))
        elif isinstance(source, str):
            check_edits(source)
        try:
            self._container, self._stream = self._open()
        except FFmpegError as error:
            raise UndecodableMedia(explain_unreadable(head)) from error
        self._format = self._container.format.name
        self._sound = name_sound(self._container, self._limits.sound_codecs)
        self._check_header()
        self._index = self._read_index()
        if self._header.picture_format is None:
            self._reserve(self._estimate_cost())
        self._states = bytearray(self._index.frames)
        self._cursor = self._seek(0)
        self._last_requested = -1
        first = self._cursor.peek()
        if first is None:
            raise UndecodableMedia("no frame can be decoded: the file is damaged or truncated")
        self.converter = FrameConverter(first, self._read_presentation())
        limits.check_size(*self.converter.size)

    def _read_index(self) -> Index:
        if self._header.picture_format:
            return Index(1)
        cut = isinstance(self._source, str) and is_cut(self._source, self._format)
        index = read_index(self._container, self._stream, self._limits, is_cut=cut)
        if self._format == "apng":
            index.timing = time_apng(self._source, index.frames) or index.timing
            if index.frames < (self._header.frames or 0):
                index.truncated = f"{index.frames} of {self._header.frames} frames"
        return index

    def _reserve(self, cost: Cost) -> None:
        self.cost = cost
        self._limits.require(cost)

    def reserve_frames(self, count: int) -> None:
        """Reserve memory for `count` decoded frames that will be held. Raises LimitExceeded."""
        self._reserve(replace(self.cost, memory_bytes=self.cost.memory_bytes + count * self._form.frame_bytes))

    @property
    def _form(self) -> FrameForm:
        context = self._stream.codec_context
        layout = context.format
        parts = layout.components if layout else ()
        return FrameForm(
            context.width,
            context.height,
            layout.padded_bits_per_pixel if layout else 8 * PIXEL_BYTES,
            context.name,
            has_alpha=layout is None or layout.has_palette or any(part.is_alpha for part in parts),
            is_deep=any(part.bits > 8 for part in parts),
            references=read_references(context.name, context.extradata),
        )

    def _estimate_cost(self) -> Cost:
        frames = self._index.frames
        positions = sorted({*spread_positions(VERIFIED_FRAMES, frames), frames - 1})
        return estimate_video(self._form, frames, count_decoded(positions, self._index.list_key_positions()))

    def _read_presentation(self) -> Presentation:
        form = self._header.picture_format
        return Presentation(
            self._stream.codec_context.name,
            self._limits.background,
            read_pixel_aspect(self._stream, self._format),
            self._source,
            read_tags(self._source, form) if form else None,
        )

    def _open(self) -> tuple[InputContainer, VideoStream]:
        container = self._open_container()
        if self._track is None:
            self._track = self._choose_track(container)
            if len(list_videos(container)) > 1:  # choosing one may have read packets
                container.close()
                container = self._open_container()
        stream = cast("VideoStream", container.streams[self._track])
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = THREADS
        # Videos are decoded past errors. Pictures are not: a truncated one would be decoded to half a picture.
        is_picture = self._header.picture_format is not None
        stream.codec_context.options = self._decoder_options | ({"err_detect": "explode"} if is_picture else {})
        return container, stream

    def _open_container(self) -> InputContainer:
        form = self._header.picture_format or self._header.animation_format
        # With max_pixels set, FFmpeg does not report the size of a JPEG.
        options = {} if form == "jpeg_pipe" else self._decoder_options
        formats = form or list_formats(VIDEO_CONTAINERS, self._limits)
        return open_container(self._source, formats, self._limits, form=form, options=options)

    @property
    def _decoder_options(self) -> dict[str, str]:
        # A second check, inside FFmpeg. Coded sizes are slightly larger than displayed ones.
        max_pixels = self._limits.max_pixels * 9 // 8 + (1 << 16)
        return {"max_pixels": str(max_pixels), "codec_whitelist": list_decoders(self._limits)}

    def _list_auxiliary_tracks(self, container: InputContainer) -> frozenset[int]:
        """Return the numbers of the tracks of an MP4 file that belong to another one."""
        is_needed = container.format.name == MOV and len(container.streams.video) > 1 and isinstance(self._source, str)
        return read_auxiliary_tracks(str(self._source)) if is_needed else frozenset()

    def _choose_track(self, container: InputContainer) -> int:
        stream = choose_video(container, self._list_auxiliary_tracks(container))
        if stream is None:
            if isinstance(self._source, str) and is_cut(self._source, container.format.name):
                raise UndecodableMedia(explain_unreadable(read_head(self._source)))
            kinds = " and ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise UndecodableMedia(f"the file has no video stream, only {kinds}")
        if cast("object", stream.codec_context) is None:
            raise UndecodableMedia("the video codec is not supported")
        self._limits.check_video_codec(stream.codec.canonical_name)
        return stream.index

    def _check_header(self) -> None:
        context, stream = self._stream.codec_context, self._stream
        width, height = self._header.size or (context.width, context.height)
        if not width or not height:  # FFmpeg reports no size if it exceeds max_pixels
            raise LimitExceeded(
                f"the frame size exceeds the limit of {self._limits.max_pixels} pixels (max_pixels), or cannot be read"
            )
        self._limits.check_size(width, height)
        if self._header.picture_format is None:
            duration = (stream.duration or 0) * (read_fraction(stream.time_base) or Fraction(0))
            total = Fraction(self._container.duration or 0, av.time_base)
            self._limits.check_length(stream.frames, float(max(duration, total)), "according to its header")

    @property
    def frames(self) -> int:
        """Number of frames; an estimate until frames without times were counted."""
        return self._index.frames

    @property
    def timing(self) -> Timing:
        """When the frames are shown."""
        return self._index.timing

    @property
    def is_indexed(self) -> bool:
        """Whether the file has an index of frames, a time for every frame, one video track, and only allowed codecs."""
        is_alone = len(self._container.streams.video) == 1 and has_only_allowed(self._container, self._limits)
        return self._format in (MOV, MATROSKA) and self._index.pts is not None and is_alone

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture, not a video."""
        return self._header.picture_format is not None or (self._format in ("gif", "apng") and self._index.frames == 1)

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        timing, is_still = self._index.timing, self.is_still
        return {
            "kind": "image" if is_still else "video",
            "width": self.converter.size[0],
            "height": self.converter.size[1],
            "frames": self._index.frames,
            "rate": None if is_still else str(timing.rate),
            "duration_s": 0.0 if is_still else float(timing.measure_duration(self._index.frames)),
            "damaged": self.damaged,
            "codec": self._stream.codec.canonical_name,
            "changes": dict(self.converter.changes),
            "sound": self._sound,
            "is_variable": timing.is_variable and not is_still,
        }

    @property
    def begin(self) -> Fraction:
        """When the first frame is shown, in seconds of the file's clock."""
        pts = self._index.pts
        first = pts[0] if pts else self._stream.start_time or 0
        return first * (read_fraction(self._stream.time_base) or Fraction(0))

    def open_track(self) -> SoundTrack:
        """Open the file again, to read its sound. Raises UndecodableMedia if there is none or it is not supported."""
        if self._sound is None or not isinstance(self._source, str):
            raise UndecodableMedia("there is no sound")
        return open_track(self._source, list_formats(VIDEO_CONTAINERS, self._limits), self.begin, self._limits)

    @property
    def damaged(self) -> str | None:
        """Description of the damage in the frames decoded so far; None if there is none."""
        truncated = f"truncated: {self._index.truncated}" if self._index.truncated else None
        return "; ".join(filter(None, (truncated, self._describe_errors()))) or None

    def _describe_errors(self) -> str | None:
        missing, flawed = self._states.count(MISSING), self._states.count(FLAWED)
        if not missing and not flawed:
            return None
        frames = self._index.frames
        tried = frames - self._states.count(UNTRIED)
        of = f"{frames} frames" if tried == frames else f"{tried} frames checked ({frames} in total)"
        if not missing:
            return f"{flawed} of {of} have errors"
        return f"{missing} of {of} could not be decoded" + (f", and {flawed} have errors" if flawed else "")

    def _seek(self, position: int) -> Cursor:
        """Return a cursor at the last keyframe before `position`, or at the beginning if that cannot be sought."""
        key = self._index.find_keyframe(position)
        packets = self._seek_packets(*key) if key else None
        if key is not None and packets is not None:
            begin = self._index.find_position(key[0]) or 0
            return Cursor(self._decode_packets(packets, begin), begin)
        self._container.close()
        self._container, self._stream = self._open()
        return Cursor(self._decode_packets(self._container.demux(self._stream), 0), 0)

    def _seek_packets(self, pts: int, dts: int) -> "Iterator[Packet[VideoStream]] | None":
        try:
            self._container.seek(dts, stream=self._stream)
        except FFmpegError:
            return None
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.pts == pts and packet.is_keyframe:
                return itertools.chain([packet], packets)
            if packet.dts is None or packet.dts > dts:
                break
        return None

    def _decode_packets(
        self, packets: "Iterator[Packet[VideoStream]]", begin: int
    ) -> Generator[tuple[int, VideoFrame]]:
        """Yield frames with their positions, skipping frames that cannot be decoded."""
        has_times = self._index.pts is not None
        counted = expected = begin
        for frames in self._decode_all(packets):
            if frames is None:
                counted += 1
                continue
            for frame in frames:
                position = self._index.find_position(frame.pts) if has_times else counted
                counted += 1
                if position is not None and position >= expected:
                    self._mark_frames(expected, position, FLAWED if frame.is_corrupt else DECODED)
                    expected = position + 1
                    yield position, frame
        if not has_times:
            self._index.frames = counted
            self._states = self._states[:counted].ljust(counted, bytes([UNTRIED]))
        self._mark_frames(expected, self._index.frames, MISSING)

    def _decode_all(self, packets: "Iterator[Packet[VideoStream]]") -> Iterator[list[VideoFrame] | None]:
        """Yield the frames that each packet completes, None for a packet that cannot be read or decoded.

        The frames that the decoder holds back come last, also if reading ends with an error.
        """
        decoder = choose_decoder(self._stream, THREADS)
        is_flushed = False
        while True:
            try:
                packet = next(packets, None)
                if packet is None and is_flushed:
                    return
                if packet is not None and packet.size and packet.pts in self._index.incomplete:
                    continue  # decoding it would cost the frames that the decoder holds back
                is_flushed = packet is None or not packet.size
                frames = decoder.decode(packet)
            except MemoryError:
                raise
            except FFmpegError:
                frames = None
            yield frames

    def _mark_frames(self, expected: int, position: int, state: int) -> None:
        """Record the state of the frame at `position`, and that the frames from `expected` up to it are missing."""
        for skipped in range(expected, min(position, len(self._states))):
            self._states[skipped] = self._states[skipped] or MISSING
        if state != MISSING:
            self._states.extend(bytes(max(0, position + 1 - len(self._states))))  # more frames than packets
            self._states[position] = state

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`, or the one before it if it is missing; None past the end."""
        if position >= self._index.frames:
            return None
        key = self._index.find_keyframe(position)
        begin = self._index.find_position(key[0]) if key else None
        if position < self._cursor.position or (begin is not None and begin > self._last_requested + 1):
            self._cursor = self._seek(position)
        self._last_requested = position
        frame = self._cursor.advance(position)
        if frame is None and self._cursor.begin > 0:
            self._cursor = self._seek(0)
            frame = self._cursor.advance(position)
        if self._index.frames <= position:  # counting found fewer frames
            return None
        return frame or self._cursor.peek()

    def read_last(self) -> VideoFrame:
        """Return the last frame that can be decoded. Counts the frames if they have no times."""
        frame, frames = None, 0
        while frame is None and frames != self._index.frames:
            frames = self._index.frames
            frame = self.read_frame(frames - 1)
        if frame is None:
            raise UndecodableMedia("no frame can be decoded")
        return frame

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one. Raises UndecodableMedia if the last does not decode."""
        for position in positions:
            frame = self.read_frame(position)
            if frame is not None:
                self.converter.notice(frame)
        self.converter.notice(self.read_last())
        decoded = self._cursor.position + 1
        may_be_cut = self._index.truncated or self._format == TS  # the last frames may be there in part
        if decoded < self._index.frames - (CUT_FRAMES if may_be_cut else 0):
            raise UndecodableMedia(
                f"the end of the video cannot be decoded, only the first {decoded} of {self._index.frames} frames"
            )

    def close(self) -> None:
        """Stop decoding and close the file at once."""
        self._cursor.close()
        self._container.close()
