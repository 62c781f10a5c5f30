"""Converting a finished video to an animated GIF, an animated WebP, or a zip archive of PNG files."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path

from av.video.frame import VideoFrame

from composition.media.animation import (
    MAX_SIDES,
    TIMINGS,
    AnimationFormat,
    GifWriter,
    PaletteBuilder,
    PngWriter,
    Tick,
    WebpWriter,
    Writer,
    choose_ticks,
)
from composition.media.decode import Decoder
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded
from services.frames import Frames


async def convert_video(
    source: Path, form: AnimationFormat, target: Path, *, max_pixels: int, limits: MediaLimits, owner: str = ""
) -> None:
    """Write a video, or a folder or zip archive of its frames, to the file `target` in another format.

    One run of frames is in memory at a time. For a GIF the video is decoded twice: its colours are chosen first.

    Args:
        source: the video.
        form: the file format.
        target: the file to write.
        max_pixels: limit of frames × width × height.
        limits: limits of the decoder.
        owner: the owner of the video; empty if it is not known.

    Raises:
        LimitExceeded: the video has more than `max_pixels` pixels, or is too large for the format.
        UndecodableMedia, ServiceLost, ServiceBusy: as `Decoder.open`.
    """
    async with Decoder.open(source, limits, owner=owner) as video:
        facts = video.facts
        _check_size(form, facts.width, facts.height, facts.frames, max_pixels)
        size = facts.width, facts.height
        palette = PaletteBuilder(*size, facts.frames) if form == "gif" else None
        if palette is not None or facts.is_variable:
            times = await _survey(video, palette)
        else:
            times = [index / (facts.rate or Fraction(1)) for index in range(facts.frames + 1)]
        writer = await asyncio.to_thread(_open_writer, form, target, size, times, palette)
        ticks = _list_ticks(form, times)
        async with aclosing(video.stream_runs()) as runs:
            await _write_runs(writer, runs, ticks)


def _check_size(form: AnimationFormat, width: int, height: int, frames: int, max_pixels: int) -> None:
    if max(width, height) > MAX_SIDES[form]:
        message = f"format: {form} has at most {MAX_SIDES[form]} pixels of width and height, got {width}x{height}"
        raise LimitExceeded(message, param="format")
    if width * height * frames > max_pixels:
        amount = f"{frames} frames of {width}x{height} are {width * height * frames} pixels"
        raise LimitExceeded(
            f"format: {amount}; at most {max_pixels} are converted to {form} (max_conversion_pixels)", param="format"
        )


async def _survey(video: Decoder, palette: PaletteBuilder | None) -> list[Fraction]:
    """Return when each frame appears and the last one disappears, and pass the frames to the palette."""
    times: list[Fraction] = []
    async with aclosing(video.stream_runs()) as runs:
        async for run in runs:
            times = [*times[:-1], *run.list_times()]
            if palette is not None:
                await asyncio.to_thread(_add_colours, palette, run)
    return times


def _add_colours(palette: PaletteBuilder, run: Frames) -> None:
    for pixels in run.pixels:
        palette.add(pixels)


def _list_ticks(form: AnimationFormat, times: list[Fraction]) -> list[Tick]:
    if form in TIMINGS:
        return choose_ticks(times, TIMINGS[form])
    return [Tick(index, index, 1) for index in range(len(times) - 1)]


def _open_writer(
    form: AnimationFormat,
    target: Path,
    size: tuple[int, int],
    times: list[Fraction],
    palette: PaletteBuilder | None,
) -> Writer:
    if palette is not None:
        colours: VideoFrame = palette.build()
        return GifWriter(target, size, colours, _list_ticks(form, times)[-1].duration)
    return WebpWriter(target, size) if form == "webp" else PngWriter(target)


async def _write_runs(writer: Writer, runs: AsyncGenerator[Frames], ticks: list[Tick]) -> None:
    try:
        upcoming = iter(ticks)
        tick = next(upcoming, None)
        async for run in runs:
            wanted: list[Tick] = []
            while tick is not None and tick.frame < run.stop:
                wanted.append(tick)
                tick = next(upcoming, None)
            await asyncio.to_thread(_write_run, writer, run, wanted)
    finally:
        await asyncio.to_thread(writer.close)


def _write_run(writer: Writer, run: Frames, ticks: list[Tick]) -> None:
    for tick in ticks:
        writer.write(run.pixels[tick.frame - run.first], tick)
