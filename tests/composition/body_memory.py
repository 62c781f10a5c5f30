"""Measure the memory for reading request bodies that are designed to need much of it.

`python -m tests.composition.body_memory` reads each body in a separate process, a fork of this one, and prints a line
of JSON for each: its shape, its size, whether it was accepted, and by how many bytes the process grew.
"""

import asyncio
import ctypes
import gc
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.requests import Request

from composition.http.bodies import Body, BodySettings, Message, read_body
from services.allowance import LEAST_BYTES
from services.errors import ReelError
from tests.services.hostile_json import HOSTILE, LIMIT, most_taken

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
CHUNK = 1 << 16


def part(name: str, data: bytes, file: str | None = None) -> bytes:
    """Return one part of a multipart form."""
    filename = "" if file is None else f'; filename="{file}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + data + b"\r\n"


def hostile_forms(limit: int) -> dict[str, tuple[bytes, str]]:
    """Return forms with `limit` bytes of text, or with the maximum number of parts: shape → body and content type."""
    wide = limit - len("a=😀".encode())
    flat = {
        "escapes": b"a=" + b"%41" * (limit // 3 - 2),
        "letters and escapes": b"a=" + b"ab%41" * (limit // 5 - 1),
        "spaces": b"a=" + b"+" * (limit - 2),
        "a long value": b"a=" + b"x" * (limit - 2),
        "a long value with 😀": b"a=" + b"x" * wide + "😀".encode(),
        "half a long value with 😀": b"a=" + b"x" * (wide // 2) + "😀".encode(),
        "a long name": b"x" * (limit - 2) + b"=",
        "what is not UTF-8": b"a=" + b"\xff" * (limit - 2),
        "one name": b"&".join([b"a=12"] * 10_000),
        "one name, long values": b"&".join([b"a=" + b"x" * (limit // 10_000 - 4)] * 10_000),
        "many names": b"&".join(b"%x=1" % n for n in range(10_000)),
        "many objects": b"&".join(b"%x[%x]=1" % (n % 256, n) for n in range(10_000)),
        "nothing": b"&" * 10_000,
    }
    parts = {
        "a long text": [part("a", b"x" * limit)],
        "a long text with 😀": [part("a", b"x" * wide + "😀".encode())],
        "half a long text with 😀": [part("a", b"x" * (wide // 2) + "😀".encode())],
        "a text that is not UTF-8": [part("a", b"\xff" * limit)],
        "short texts": [part("a", b"12")] * 10_000,
        "many texts": [part(f"a{n}", b"12") for n in range(10_000)],
        "long names": [part("x" * 4000 + str(n), b"") for n in range(250)],
    }
    forms = {f"urlencoded: {name}": (body, FORM) for name, body in flat.items()}
    return forms | {f"multipart: {name}": (b"".join(body) + b"--b--\r\n", MULTIPART) for name, body in parts.items()}


def hostile_json(limit: int) -> dict[str, tuple[bytes, str]]:
    """Return JSON bodies just below the limit, a multiple of LIMIT: shape → body and content type."""
    counts = {name: most_taken(written) * limit // LIMIT for name, written in HOSTILE.items()}
    return {f"JSON: {name}": (b'{"a":' + HOSTILE[name](count) + b"}", JSON) for name, count in counts.items()}


@asynccontextmanager
async def reading(body: bytes, content_type: str, limit: int) -> AsyncIterator[Body]:
    """Read a body that arrives in chunks."""
    starts = iter(range(0, len(body), CHUNK))

    async def receive() -> Message:
        start = next(starts, None)
        chunk = b"" if start is None else body[start : start + CHUNK]
        return {"type": "http.request", "body": chunk, "more_body": start is not None}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
    async with read_body(Request(scope, receive), BodySettings(max_json_bytes=limit)) as read:
        yield read


def rss(field: str) -> int:
    """Return this process's current memory (VmRSS), or its peak since the last reset (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def growth(body: bytes, content_type: str, limit: int) -> tuple[bool, int]:
    """Read a body, and return whether it was accepted and by how many bytes this process grew at its peak."""

    async def take(data: bytes, kind: str) -> bool:
        try:
            async with reading(data, kind, limit):
                return True
        except ReelError:
            return False

    with asyncio.Runner() as runner:
        runner.run(take(b'{"a": [1]}', JSON))  # objects that are created once
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = rss("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        taken = runner.run(take(body, content_type))
        return taken, rss("VmHWM") - before


def main(limit: int) -> None:
    for shape, (body, content_type) in (hostile_json(limit) | hostile_forms(limit)).items():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            taken, grown = growth(body, content_type, limit)
            print(json.dumps([shape, len(body), taken, grown]), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{shape}: {status}")


if __name__ == "__main__":
    main(4 * LEAST_BYTES)
