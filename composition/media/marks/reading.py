"""Reading the marks of a file in a decoder process."""

import asyncio
import json
import logging
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from composition.media.cost import MARKS_COST
from composition.media.decoding.process import DecoderProcess, decoder_processes
from composition.media.limits import MediaLimits
from composition.media.marks.report import MarkedLabels, MarksReport
from composition.media.marks.settings import MarksSettings
from composition.media.memory_budget import find_budget
from services.errors import ConfigError, LimitExceeded, ServiceLost, UndecodableMedia

log = logging.getLogger(__name__)

START_S = 30.0
"""Seconds that a decoder process may take to start."""
MAX_ANSWER_BYTES = 16 << 20
"""Maximum size of an answer; every part of it is limited where it is read."""


async def inspect_marks(path: Path, limits: MediaLimits, settings: MarksSettings) -> MarksReport:
    """Read the marks of a file of any kind. A file that cannot be decoded has none.

    Args:
        path: a local file.
        limits: limits of the process that reads it: time and memory.
        settings: who is trusted.

    Raises:
        UndecodableMedia: the file takes too long, or the process crashed on it.
        LimitExceeded: reading the file takes too much memory.
        ServiceBusy: other decoders have taken the memory, and did not give it back in time.
        ServiceLost: the process could not be started or was lost.
        ConfigError: the certificates of `settings.trust_anchors` cannot be read.
    """
    anchors = await asyncio.to_thread(_read_anchors, settings)
    request = {"path": str(path), "limits": limits.model_dump(), "marks": {"trust_anchors": anchors}}
    with closing(find_budget(limits).open_reservation()) as reservation:
        await reservation.resize(MARKS_COST.memory_bytes)
        answer = await _ask_decoder(request, limits)
    if "error" in answer:
        kind = LimitExceeded if answer["error"] == LimitExceeded.code else UndecodableMedia
        raise kind(f"file: {answer['message']}", param="file")
    try:
        report = MarksReport.model_validate(answer["marks"])
    except (KeyError, ValidationError) as error:
        raise ServiceLost("the decoder process gave no answer that can be read") from error
    return report if report.labels != MarkedLabels() else report.model_copy(update={"labels": None})


def _read_anchors(settings: MarksSettings) -> str | None:
    """Return the certificates that are trusted, in PEM; None if there are none. Raises ConfigError."""
    path = settings.trust_anchors
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"marks.trust_anchors: {path} cannot be read: {error}", param="marks") from error


async def _ask_decoder(request: dict[str, Any], limits: MediaLimits) -> dict[str, Any]:
    """Return the answer of a decoder process to its only request."""
    try:
        process = await asyncio.to_thread(decoder_processes.start)
    except OSError as error:
        raise ServiceLost("the decoder process could not be started") from error
    try:
        try:
            async with asyncio.timeout(START_S):
                await _receive_answer(process)
        except (TimeoutError, OSError, EOFError) as error:  # no fault of the file
            raise ServiceLost("the decoder process did not start") from error
        try:
            async with asyncio.timeout(limits.deadline_s):
                data = json.dumps(request).encode()
                head = struct.pack(">I", len(data))
                await asyncio.get_running_loop().sock_sendall(process.link, head + data)
                return await _receive_answer(process)
        except TimeoutError:
            raise UndecodableMedia(
                f"file: reading the marks takes longer than {limits.deadline_s:g} s (deadline_s)", param="file"
            ) from None
        except (OSError, EOFError):
            code = await asyncio.to_thread(process.end)
            log.warning("a decoder process died", extra={"exit": code, "said": process.stderr_text[-2000:]})
            if code is None:
                raise ServiceLost("the decoder process was lost") from None
            raise UndecodableMedia("file: the decoder crashed on the file", param="file") from None
    finally:
        process.kill()
        process.link.close()
        await asyncio.shield(asyncio.to_thread(process.close))


async def _receive_answer(process: DecoderProcess) -> dict[str, Any]:
    """Receive an answer. Raises EOFError if the process has ended."""
    (size,) = struct.unpack(">I", await _receive(process, 4))
    if size > MAX_ANSWER_BYTES:
        raise EOFError
    return json.loads(await _receive(process, size))


async def _receive(process: DecoderProcess, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        chunk = await loop.sock_recv(process.link, size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
