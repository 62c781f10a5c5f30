"""Measures the cost of opening a media file: a decoder forked from a prepared process, against a new interpreter."""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil

from benchmarks.report import Goal, Report, Row, Section, find_spread, measure_alternately, ratio
from composition.media.decoding.process import ENVIRONMENT, DecoderProcesses
from composition.media.encode import encode_png
from composition.media.limits import MediaLimits

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bouncing-triangle.mp4"
FILES = 20
"""Files per measurement: the kernel's accounting of processor time is coarse."""
ROUNDS = 7
OPEN = 4
"""Number of decoders whose memory is measured."""
FORKED, FRESH = "forked", "new interpreter"
PICTURE, VIDEO = "picture, 64×48", "video, 25 frames of 64×64"
LAST = {"op": "last"}
WORK: Mapping[str, Sequence[Mapping[str, Any]]] = {PICTURE: [LAST], VIDEO: [LAST, {"op": "sample", "count": 8}]}
COMMAND = (
    "import socket, sys; from composition.media.decoding.worker import run_decoder; "
    "run_decoder(socket.socket(fileno=int(sys.argv[1])))"
)

METHOD = f"""\
A file is opened, its last frame is decoded, eight frames are sampled if it is a video, and its decoder is killed and
reaped. *{FORKED}*: the decoder is a fork of the prepared process, as in the server. *{FRESH}*: the decoder is a new
interpreter, which imports the decoding libraries. Processor time is the sum over the decoder, the prepared process and
the calling process. Each measurement opens {FILES} files in succession; {ROUNDS} rounds with alternating order after a
warm-up round; medians, with the extremes in brackets."""
ONCE = """\
Each process of the server that opens files starts one prepared process, at its first file. Its start takes about the
processor time of one new interpreter. Private: memory that is not shared with any other process."""
MEMORY = f"""\
{OPEN} decoders have the video open at the same time. Private: memory that is not shared with any other process.
Proportional: private memory plus a share of the shared memory."""

Link: TypeAlias = socket.socket
Decoders: TypeAlias = Callable[[], Any]
"""Opens a context with a connection to a new decoder."""


@contextmanager
def start_decoder() -> Iterator[Link]:
    """Connect to a decoder in a new interpreter."""
    link, theirs = socket.socketpair()
    with link, theirs, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        try:
            theirs.close()
            yield link
        finally:
            process.kill()
            process.wait()


@contextmanager
def fork_decoder(processes: DecoderProcesses) -> Iterator[Link]:
    """Connect to a forked decoder, as the server does."""
    process = processes.start()
    try:
        process.link.setblocking(True)
        yield process.link
    finally:
        process.close()


def measure() -> Report:
    """Compare both. Takes two minutes."""
    rows: list[Row] = []
    goals: list[Goal] = []
    samples: dict[str, list[float]] = {}
    processes = DecoderProcesses()
    once = _prepared(processes)
    decoders: dict[str, Decoders] = {FORKED: partial(fork_decoder, processes), FRESH: start_decoder}
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(encode_png(np.full((48, 64, 3), 128, np.uint8)))
        for what, path in ((PICTURE, picture), (VIDEO, CLIP)):
            walls: dict[str, list[float]] = {name: [] for name in decoders}
            opening = {name: partial(_open_files, decoders[name], path, what, walls[name]) for name in decoders}
            cpu = measure_alternately(opening, ROUNDS)
            wall = {name: figures[1:] for name, figures in walls.items()}  # without the warm-up round
            rows += [_row(what, name, cpu, wall) for name in decoders]
            share = ratio(cpu, FORKED, FRESH).median
            goals.append(Goal(f"{what}: processor time, {FORKED} over {FRESH}", share, 0.25, at_most=True))
            samples |= {f"{what}, {name}, CPU ms": cpu[name] for name in decoders}
            samples |= {f"{what}, {name}, wall ms": wall[name] for name in decoders}
    memory = [_memory(name, decoders[name]) for name in decoders]
    processes.close()
    sections = [Section("The prepared process", ONCE, [once]), Section("Memory of decoders", MEMORY, memory)]
    return Report("Opening a media file", METHOD, rows, goals, samples, ("av", "decord2", "numpy"), sections=sections)


def _open_files(decoders: Decoders, path: Path, what: str, walls: list[float]) -> float:
    """Open the file repeatedly. Return milliseconds of processor time per file, and append wall times to `walls`."""
    before, begun = _cpu_s(), time.perf_counter()
    for _ in range(FILES):
        with decoders() as link:
            _decode(link, path, WORK[what])
    walls.append((time.perf_counter() - begun) / FILES * 1000)
    return (_cpu_s() - before) / FILES * 1000


def _cpu_s() -> float:
    """Return the processor time of this process and its descendants, including those that have ended."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def _decode(link: Link, path: Path, requests: Sequence[Mapping[str, Any]]) -> None:
    """Open a file and send requests, as `composition.media.decode` does."""
    _answer(link)
    for request in ({"path": str(path), "limits": MediaLimits().model_dump()}, *requests):
        data = json.dumps(request).encode()
        link.sendall(struct.pack(">I", len(data)) + data)
        response = _answer(link)
        assert "error" not in response, response
        left = prod(response["shape"]) if response["shape"] else 0
        while left:
            left -= len(link.recv(left))


def _answer(link: Link) -> dict[str, Any]:
    (size,) = struct.unpack(">I", link.recv(4, socket.MSG_WAITALL))
    return json.loads(link.recv(size, socket.MSG_WAITALL))


def _row(what: str, name: str, cpu: Mapping[str, list[float]], wall: Mapping[str, list[float]]) -> Row:
    return {
        "file": what,
        "decoder": name,
        "CPU (ms)": str(find_spread(cpu[name])),
        f"over {FRESH}": "" if name == FRESH else f"{ratio(cpu, name, FRESH).median:.3f}",
        "wall (ms)": str(find_spread(wall[name])),
        f"wall over {FRESH}": "" if name == FRESH else f"{ratio(wall, name, FRESH).median:.3f}",
    }


def _prepared(processes: DecoderProcesses) -> Row:
    """Start the prepared process and return its cost."""
    with fork_decoder(processes) as link:
        _answer(link)
    (server,) = psutil.Process().children()
    return {"CPU of its start (ms)": sum(server.cpu_times()[:2]) * 1000, "private (MiB)": _mib(server, "uss")}


def _memory(name: str, decoders: Decoders) -> Row:
    before = psutil.Process().children(recursive=True)
    with ExitStack() as stack:
        for _ in range(OPEN):
            _decode(stack.enter_context(decoders()), CLIP, WORK[VIDEO])
        made = [process for process in psutil.Process().children(recursive=True) if process not in before]
        return {
            "decoder": name,
            "private (MiB)": float(np.mean([_mib(process, "uss") for process in made])),
            "proportional (MiB)": float(np.mean([_mib(process, "pss") for process in made])),
        }


def _mib(process: psutil.Process, kind: str) -> float:
    return getattr(process.memory_full_info(), kind) / 2**20
