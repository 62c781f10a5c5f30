"""The sound of a video: taken from files, and copied, converted or mixed.

Only decoder processes parse the files. Sound is copied if MP4 can hold its packets as they are, and is otherwise
decoded there and encoded here as AAC. The packets are written to a temporary file, so that memory does not grow with
their length. They depend only on the files and their times.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np

from composition.media.decode import Decoder
from composition.media.encoded_sound import AacEncoder, EncodedSound, PacketWriter, shift_sound
from composition.media.limits import MediaLimits
from composition.media.sound_form import SoundForm, UnfitForCopying, parse_samples
from composition.media.sound_mix import FULL_RATE, mix_sounds
from services.errors import LimitExceeded, UndecodableMedia
from services.frames import Sound

SHORTEST_TOLD = Fraction(1, 200)
"""Seconds of sound that are cut without a word: less than containers round."""

OpenFile = Callable[[str], AbstractAsyncContextManager[Path]]
"""Makes a URL a local file while its context is open."""


@dataclass(frozen=True)
class SoundResult:
    """The sound of a video."""

    sound: EncodedSound | None
    """None if there is none."""
    fact: str | None
    """Where it comes from, or why it is left out; None if no file has sound."""


class SoundCollector:
    """Makes the sound of one video from the sounds of files.

    Args:
        open_file: opens a file by its URL.
        limits: limits on the files.
        owner: their owner; empty if it is not known.
    """

    def __init__(self, open_file: OpenFile, limits: MediaLimits, owner: str = "") -> None:
        self._open_file = open_file
        self._limits = limits
        self._owner = owner

    @asynccontextmanager
    async def collect(self, sounds: Sequence[Sound]) -> AsyncGenerator[SoundResult]:
        """Make the sound of a video; its file exists inside the `with` block.

        One sound that begins with the video is copied, if possible; others are mixed. Sound that cannot be decoded is
        left out.

        Raises:
            NotFound, StorageFailed: a file cannot be read.
            ServiceLost: a decoder process was lost.
            ServiceBusy: other files are being decoded.
        """
        with NamedTemporaryFile(prefix="reelgraph-sound-") as file:
            if len(sounds) == 1 and sounds[0].start == 0:
                yield await self._take(sounds[0], file)
            elif sounds:
                yield await self._mix(sounds, file)
            else:
                yield SoundResult(None, None)

    async def _take(self, sound: Sound, file: IO[bytes]) -> SoundResult:
        """Copy or convert a sound that begins with the video."""
        async with AsyncExitStack() as stack:
            try:
                decoder = await self._open_decoder(sound.url, stack)
                if decoder.facts.sound is None:
                    return SoundResult(None, None)
                try:
                    taken, how = await _copy(decoder, sound.seconds, file), f"copied: {decoder.facts.sound}"
                except UnfitForCopying as error:
                    taken, how = await _convert(decoder, sound.seconds, file, error.reason)
            except (UndecodableMedia, LimitExceeded) as error:
                return SoundResult(None, f"left out: {error.message}")
        return SoundResult(taken, how + _describe_trim(taken))

    async def _mix(self, sounds: Sequence[Sound], file: IO[bytes]) -> SoundResult:
        """Mix several sounds, or one that does not begin with the video."""
        usable: list[Sound] = []
        channels, left_out = 1, ""
        for sound in sounds:
            try:
                form = await self._find_form(sound.url)
            except (UndecodableMedia, LimitExceeded) as error:
                left_out = error.message
                continue
            if form is not None:
                usable.append(sound)
                channels = max(channels, min(2, form.channels))
        missing = len(sounds) - len(usable)
        if not usable:
            return SoundResult(None, f"left out: {left_out}" if left_out else None)
        encoder = AacEncoder(file, FULL_RATE, channels)
        async with aclosing(mix_sounds(usable, channels, self._open_decoder)) as blocks:
            async for block in blocks:
                await asyncio.to_thread(encoder.add, block)
        mixed = EncodedSound(Path(file.name), await asyncio.to_thread(encoder.finish))
        file.flush()
        count = f"{len(usable)} sound{'s' if len(usable) > 1 else ''}"
        note = f"; {missing} of {len(sounds)} left out: {left_out}" if left_out else ""
        return SoundResult(mixed, f"mixed: {count} to aac{note}")

    async def _find_form(self, url: str) -> SoundForm | None:
        """Return the form of a file's sound; None if it has none. Raises UndecodableMedia, LimitExceeded."""
        async with AsyncExitStack() as stack:
            decoder = await self._open_decoder(url, stack)
            return None if decoder.facts.sound is None else await decoder.begin_sound(copied=False)

    async def _open_decoder(self, url: str, stack: AsyncExitStack) -> Decoder:
        path = await stack.enter_async_context(self._open_file(url))
        opening = Decoder.open(path, self._limits, owner=self._owner, takes_sound=True)
        return await stack.enter_async_context(opening)


async def _copy(decoder: Decoder, seconds: Fraction | None, file: IO[bytes]) -> EncodedSound:
    """Copy packets. Raises UnfitForCopying, UndecodableMedia, LimitExceeded."""
    form = await decoder.begin_sound(copied=True)
    stop = None if seconds is None else round(seconds * form.rate)
    writer = PacketWriter(file, form.start - form.skip, stop)
    async for chunk in decoder.stream_sound():
        position = 0
        for samples, size in chunk.sizes:
            writer.write(samples, chunk.data[position : position + size])
            position += size
    file.flush()
    return EncodedSound(Path(file.name), form)


async def _convert(
    decoder: Decoder, seconds: Fraction | None, file: IO[bytes], reason: str
) -> tuple[EncodedSound, str]:
    """Decode and encode sound. Return it, and how it was made. Raises UndecodableMedia, LimitExceeded."""
    await asyncio.to_thread(_empty, file)
    form = await decoder.begin_sound(copied=False)
    encoder = AacEncoder(file, form.rate, form.channels)
    stop = None if seconds is None else round(seconds * form.rate)
    position, damaged = form.start, 0
    encoder.add(np.zeros((max(0, position), form.channels), np.int16))
    async for chunk in decoder.stream_sound():
        samples = parse_samples(chunk.data, form.channels)
        damaged += chunk.damaged
        if stop is not None:
            samples = samples[: max(0, stop - position)]
        position += len(samples)
        await asyncio.to_thread(encoder.add, samples)
    encoded = EncodedSound(Path(file.name), await asyncio.to_thread(encoder.finish))
    file.flush()
    notes = [note for note in (reason, f"{damaged} damaged packets are silent" if damaged else "") if note]
    return shift_sound(encoded, min(0, form.start)), f"converted: {form.codec} to aac" + (
        f" ({'; '.join(notes)})" if notes else ""
    )


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _describe_trim(sound: EncodedSound) -> str:
    if sound.delay or sound.lead < SHORTEST_TOLD:
        return ""
    return f"; its first {float(sound.lead * 1000):.0f} ms, before the first frame, are not played"
