"""Mixing decoded sounds, each at its time, with silence between them."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from composition.media.decode import Decoder
from composition.media.sound_form import Samples, parse_samples
from services.frames import Sound

FULL_RATE = 48_000
"""Samples per second of mixed sound."""
BLOCK = FULL_RATE
"""Samples that are mixed at a time."""


class OpenDecoder(Protocol):
    """Opens a file by its URL; its decoder ends with the stack."""

    async def __call__(self, url: str, stack: AsyncExitStack) -> Decoder: ...


class _Voice:
    """A sound that is being mixed. Its decoder runs from its first sample to its last.

    Args:
        sound: the sound.
        channels: 1 or 2.
    """

    def __init__(self, sound: Sound, channels: int) -> None:
        self._sound = sound
        self._channels = channels
        self._stack = AsyncExitStack()
        self._chunks: AsyncGenerator[Samples] | None = None
        self._waiting: deque[Samples] = deque()
        self.position = round(sound.start * FULL_RATE)
        """Time of the next sample, in samples of the mix."""
        self._stop = None if sound.seconds is None else round((sound.start + sound.seconds) * FULL_RATE)
        self.has_ended = False

    async def mix_into(self, block: NDArray[np.int32], first: int, opened: OpenDecoder) -> None:
        """Add the samples of a block, (n, channels) int32, whose first one is at `first`."""
        while not self.has_ended and self.position < first + len(block):
            if self._chunks is None:
                await self._begin(opened)
            if not self._waiting:
                await self._receive()
                continue
            samples = self._waiting.popleft()
            count = min(len(samples), first + len(block) - self.position)
            if self._stop is not None:
                count = min(count, self._stop - self.position)
            block[self.position - first : self.position - first + count] += samples[:count]
            self.position += count
            if self.position == self._stop:
                await self.close()
            elif count < len(samples):
                self._waiting.appendleft(samples[count:])

    async def _begin(self, opened: OpenDecoder) -> None:
        decoder = await opened(self._sound.url, self._stack)
        form = await decoder.begin_sound(copied=False, rate=FULL_RATE, channels=self._channels)
        self._chunks = self._read(decoder, form.start)
        self.position += max(0, form.start)

    async def _read(self, decoder: Decoder, start: int) -> AsyncGenerator[Samples]:
        """Yield the samples that are played at the sound's start or later."""
        early = max(0, -start)
        async for chunk in decoder.stream_sound():
            samples = parse_samples(chunk.data, self._channels)
            skipped = min(early, len(samples))
            early -= skipped
            if len(samples) > skipped:
                yield samples[skipped:]

    async def _receive(self) -> None:
        samples = None if self._chunks is None else await anext(self._chunks, None)
        if samples is None:
            await self.close()
        else:
            self._waiting.append(samples)

    async def close(self) -> None:
        """End the sound and its decoder."""
        self.has_ended = True
        self._waiting.clear()
        if self._chunks is not None:
            await self._chunks.aclose()
        await self._stack.aclose()


async def mix_sounds(sounds: Sequence[Sound], channels: int, opened: OpenDecoder) -> AsyncGenerator[Samples]:
    """Yield the sum of sounds in blocks, (n, channels) int16, from time 0 to the end of the last sound.

    Memory holds one block, and one chunk of each sound that is played at the time.

    Args:
        sounds: sounds that can be decoded.
        channels: 1 or 2.
        opened: opens their files.
    """
    voices = [_Voice(sound, channels) for sound in sounds]
    first = 0
    try:
        while any(not voice.has_ended for voice in voices):
            block = np.zeros((BLOCK, channels), np.int32)
            for voice in voices:
                await voice.mix_into(block, first, opened)
            end = max(voice.position for voice in voices)
            if all(voice.has_ended for voice in voices):
                block = block[: max(0, end - first)]
            first += len(block)
            yield np.clip(block, -32768, 32767).astype(np.int16)
    finally:
        for voice in voices:
            await voice.close()
