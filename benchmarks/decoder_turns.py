"""Measures how long a small picture waits while slow files of another owner are decoded."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx
import numpy as np

from benchmarks.report import Goal, Report, Row, find_spread
from benchmarks.serving import serve_application
from composition.media.encode import encode_png
from composition.records.store import Store
from tests.composition.media.hostile import make_slow_video

SLOW_FILES = 4
UPLOADS = 20
"""Uploads of the picture for each measurement."""
ROUNDS = 3
BEGIN_S = 1.0
"""Seconds from the start of the slow uploads to the first measurement."""
ALONE = "alone"
SLOW: Mapping[str, tuple[int, str]] = {
    "10,000 frames of H.264": (10_000, "libx264"),
    "10,000 frames of HEVC": (10_000, "libx265"),
    "60,000 frames of H.264": (60_000, "libx264"),
}
"""What → number of frames, and encoder."""

METHOD = f"""\
Bob uploads a PNG of 64×64 pixels {UPLOADS} times, one after another, to a server of all models and graphs on this
machine, and each time waits for the answer. Meanwhile Alice uploads {SLOW_FILES} slow files at the same time, and each
again as soon as it was answered. The frames of a slow file have 4096×2304 pixels, say nothing, and depend on the first
one. Those of 10,000 frames are decoded for most of a minute; those of 60,000 are refused by their headers, after about
a third of a second. {ROUNDS} rounds, each with and without the slow files; all uploads together, medians, with the
extremes in brackets, in milliseconds."""


def measure() -> Report:
    """Upload the picture alone and beside each kind of slow file. Takes five minutes."""
    picture = encode_png(np.full((64, 64, 3), 128, np.uint8))
    times: dict[str, list[float]] = {name: [] for name in (ALONE, *SLOW)}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/store.db"
        store = Store(url)
        alice, bob = ({"Authorization": f"Bearer {store.add_key(owner)}"} for owner in ("alice", "bob"))
        store.close()
        with serve_application({"auth": "keys"}, database=url) as client:
            client.headers.update(bob)
            upload_repeatedly(client, picture)  # warm-up
            for _ in range(ROUNDS):
                times[ALONE] += upload_repeatedly(client, picture)
                for name, (frames, encoder) in SLOW.items():
                    slow = make_slow_video(frames, encoder)
                    with keep_uploading(str(client.base_url), alice, slow):
                        time.sleep(BEGIN_S)
                        times[name] += upload_repeatedly(client, picture)
    ratios = {name: find_spread(times[name]).median / find_spread(times[ALONE]).median for name in SLOW}
    rows = [_row(name, times[name], ratios.get(name)) for name in times]
    goals = [Goal(f"beside {name}: time over {ALONE}", ratios[name], 2, at_most=True) for name in SLOW]
    samples = {f"{name}, ms": figures for name, figures in times.items()}
    return Report("A small picture beside slow files", METHOD, rows, goals, samples, ("ray", "av"))


def upload_repeatedly(client: httpx.Client, data: bytes) -> list[float]:
    """Upload a file repeatedly. Return the milliseconds of each upload."""
    times: list[float] = []
    for _ in range(UPLOADS):
        began = time.perf_counter()
        client.post("/v1/files", files={"file": ("a.png", data)}).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
    return times


@contextmanager
def keep_uploading(url: str, headers: Mapping[str, str], data: bytes) -> Iterator[None]:
    """Upload files inside the `with` block, several at the same time; whatever the answer, each is uploaded again."""

    async def upload(client: httpx.AsyncClient) -> None:
        while True:
            await client.post("/v1/files", files={"file": ("slow.mp4", data)})

    async def upload_all() -> None:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=None) as client:  # noqa: S113
            await asyncio.gather(*(upload(client) for _ in range(SLOW_FILES)))

    loop = asyncio.new_event_loop()
    work = loop.create_task(upload_all())
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.wait([work]),))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(work.cancel)
        thread.join()
        loop.close()
        if not work.cancelled():
            work.result()


def _row(name: str, times: Sequence[float], ratio: float | None) -> Row:
    return {
        "beside": "nothing" if name == ALONE else f"{SLOW_FILES} files of {name}",
        "time (ms)": str(find_spread(times)),
        f"over {ALONE}": "" if ratio is None else f"{ratio:.2f}",
    }
