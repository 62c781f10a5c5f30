"""Measures what the marks of finished files cost, relative to encoding the files."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately
from composition.media.animation import GifWriter, PaletteBuilder, Tick
from composition.media.encode import SegmentEncoder, remux, resize_frames
from composition.media.encode_picture import encode_picture
from composition.media.formats import PictureFormat
from composition.media.marks.marker import MarkedFormat, Marker
from composition.media.marks.provenance import ModelUse, Provenance
from composition.media.marks.settings import MarksSettings
from services.frames import Frames, Pixels

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
ROUNDS = 10
FRAMES, SMALL_FRAMES = 81, 17
SIDE = 1024
"""Width and height of the pictures in pixels."""
FRACTION = 0.05
"""What the marks may cost, as a share of encoding."""
SEGMENT = 32
"""Frames per segment."""
PROVENANCE = Provenance(
    content_id="video_0123456789abcdef/video.mp4",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    task="v2v",
    models=(
        ModelUse("describe", "internvl", "OpenGVLab/InternVL3-8B-hf", "0" * 40),
        ModelUse("generate", "wan", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "1" * 40),
    ),
    seed=7,
)

METHOD = f"""\
Frames of Big Buck Bunny are encoded as jobs and image routes encode them, and the file is then marked: labels in XMP
and `AIGC`, and a C2PA manifest that is signed with a key of the installation (P-256). No file of a user is an
ingredient. CPU time of the process in milliseconds; {ROUNDS} rounds with alternating order after a warm-up round;
medians, with the extremes in brackets. Other programs on the machine only add to such times, so the shares are those of
the minima. A manifest costs 1 to 2 ms, and the hash and the copies of the whole file about 1 ms per MB, four fifths of
it inside c2pa-rs: small files, and those that are quick to encode, cost relatively more."""


def measure() -> Report:
    """Compare encoding and marking. Takes half a minute."""
    frames, small = _read_frames(FRAMES, 1280, 720), _read_frames(SMALL_FRAMES, 64, 64)
    animation, picture = _read_frames(SMALL_FRAMES, 640, 360), _read_frames(1, SIDE, SIDE)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writers: dict[str, tuple[MarkedFormat, Callable[[Path], None]]] = {
            f"mp4, 1280x720, {FRAMES} frames": ("mp4", partial(_write_mp4, frames)),
            f"mp4, 64x64, {SMALL_FRAMES} frames": ("mp4", partial(_write_mp4, small)),
            f"gif, 640x360, {SMALL_FRAMES} frames": ("gif", partial(_write_gif, animation)),
            f"png, {SIDE}x{SIDE}": ("png", partial(_write_picture, picture, "png", 100)),
            f"jpeg, {SIDE}x{SIDE}, quality 100": ("jpeg", partial(_write_picture, picture, "jpeg", 100)),
            f"webp, {SIDE}x{SIDE}, quality 90": ("webp", partial(_write_picture, picture, "webp", 90)),
            f"webp, {SIDE}x{SIDE}, lossless": ("webp", partial(_write_picture, picture, "webp", 100)),
        }
        samples = _measure_writers(writers, folder)
        rows = [_row(what, samples, folder / _name_file(what, form)) for what, (form, _) in writers.items()]
    goals = [Goal(f"{what}: marking over encoding", _find_share(what, samples), FRACTION, True) for what in writers]
    return Report("Marks", METHOD, rows, goals, samples, ("av", "c2pa-python", "numpy", "pillow"))


def _measure_writers(
    writers: Mapping[str, tuple[MarkedFormat, Callable[[Path], None]]], folder: Path
) -> dict[str, list[float]]:
    """Return `encode …` and `mark …` of each writer → milliseconds of each round."""
    marker = Marker(MarksSettings(), folder)
    contenders: dict[str, Callable[[], float]] = {}
    with asyncio.Runner() as loop:
        for what, (form, write) in writers.items():
            path = folder / _name_file(what, form)
            contenders[f"encode {what}"] = partial(_measure_call, partial(write, path))
            write(path)
            contenders[f"mark {what}"] = partial(_mark_copy, loop, marker, path, form)
        return measure_alternately(contenders, ROUNDS)


def _mark_copy(loop: asyncio.Runner, marker: Marker, path: Path, form: MarkedFormat) -> float:
    """Mark a copy of a file as jobs do, videos and animations on the disk and pictures in memory."""
    copy = path.with_name(f"copy-{path.name}")
    shutil.copyfile(path, copy)
    return loop.run(_measure_marking(marker, copy, form))


async def _measure_marking(marker: Marker, path: Path, form: MarkedFormat) -> float:
    """Mark a file, and return the CPU time of that in milliseconds."""
    if form in ("mp4", "gif"):
        begun = time.process_time()
        await marker.mark_file(path, form, PROVENANCE)
        return (time.process_time() - begun) * 1000
    data = await asyncio.to_thread(path.read_bytes)
    begun = time.process_time()
    marked = await marker.mark_bytes(data, form, PROVENANCE)
    milliseconds = (time.process_time() - begun) * 1000
    await asyncio.to_thread(path.write_bytes, marked)
    return milliseconds


def _find_share(what: str, samples: Mapping[str, list[float]]) -> float:
    """Return what marking costs as a share of encoding."""
    return min(samples[f"mark {what}"]) / min(samples[f"encode {what}"])


def _measure_call(call: Callable[[], object]) -> float:
    """Return the CPU time of a call, in milliseconds."""
    begun = time.process_time()
    call()
    return (time.process_time() - begun) * 1000


def _read_frames(count: int, width: int, height: int) -> Pixels:
    with av.open(str(CLIP)) as container:
        shown = container.decode(video=0)
        pixels = [next(shown).reformat(format="rgb24", dst_color_range=2).to_ndarray() for _ in range(count)]
    runs = [resize_frames(Frames(each[None].astype(np.uint8)), width, height) for each in pixels]
    return np.concatenate([run.pixels for run in runs])


def _write_mp4(frames: Pixels, path: Path) -> None:
    count, height, width, _ = frames.shape
    encoder = SegmentEncoder(width, height, Fraction(16), total_frames=count)
    parts = [encoder.encode_init()]
    for first in range(0, count, SEGMENT):
        parts.append(encoder.encode_segment(frames[first : first + SEGMENT], first, len(parts)))
    whole = path.with_suffix(".fragmented")
    whole.write_bytes(b"".join(parts))
    remux(whole, path)


def _write_gif(frames: Pixels, path: Path) -> None:
    count, height, width, _ = frames.shape
    palette = PaletteBuilder(width, height, count)
    for frame in frames:
        palette.add(frame)
    writer = GifWriter(path, (width, height), palette.build(), 6)
    for index, frame in enumerate(frames):
        writer.write(frame, Tick(index, 6 * index, 6))
    writer.close()


def _write_picture(pixels: Pixels, form: PictureFormat, quality: int, path: Path) -> None:
    path.write_bytes(encode_picture(pixels, form, quality))


def _name_file(what: str, form: MarkedFormat) -> str:
    return f"{what.replace(', ', '-').replace(' ', '-')}.{form}"


def _row(what: str, samples: Mapping[str, list[float]], path: Path) -> Row:
    marked = path.with_name(f"copy-{path.name}")
    return {
        "file": what,
        "kB": round(path.stat().st_size / 1000),
        "marks, kB": round((marked.stat().st_size - path.stat().st_size) / 1000, 1),
        "encode, ms": str(find_spread(samples[f"encode {what}"])),
        "mark, ms": str(find_spread(samples[f"mark {what}"])),
        "mark, % of encode": round(100 * _find_share(what, samples), 2),
    }
