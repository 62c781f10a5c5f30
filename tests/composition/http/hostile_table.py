"""What the server answers to hostile files, and what they cost.

`python -m tests.composition.http.hostile_table` writes `docs/hostile-files.md`; `test_hostile_files` holds its kinds
and answers.
"""

import asyncio
import logging
import resource
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from composition.http.ingress import Ingress, IngressSettings
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.media import hostile, hostile_references, hostile_zips
from tests.composition.media.hostile import MIB, Recipe
from tests.composition.media.own_memory import OWN_MEMORY

PAGE = Path(__file__).parents[3] / "docs" / "hostile-files.md"
RECIPES: Mapping[str, Recipe] = {**hostile.RECIPES, **hostile_references.RECIPES, **hostile_zips.RECIPES}
INTRODUCTION = """\
# Hostile files

Files that ask for much memory or processor time, lie about themselves, refer to other files or to the network, or are
no media at all, and what `POST /v1/files` answers. Each file is decoded in a process of its own
([architecture](architecture.md#composition), [limits](configuration.md)). *Memory* is the largest resident memory of
that process, of which about 30 MiB are shared by all decoders; *processor time* is its own. A test uploads each file
and holds kinds and answers; the costs were measured once, with the default limits of a machine of 8 to 40 GiB.

"""
HEADINGS = ("kind", "size (KiB)", "answer", "memory (MiB)", "processor time (s)")


@dataclass(frozen=True)
class Outcome:
    """What an upload led to."""

    answer: str
    """Status and code, e.g. `422 limit_exceeded`."""
    message: str
    peak_bytes: int
    """Largest resident memory of the decoder."""
    cpu_s: float
    """Processor time of the decoder."""
    reserved_bytes: int
    """Memory that was reserved for the decoder."""
    growth_bytes: int
    """How far the memory of this process, which is the server, grew meanwhile."""


class CostRecorder(logging.Handler):
    """Adds up what decoders have cost, by their log records."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes, self.cpu_s, self.reserved_bytes = 0, 0.0, 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "decoder ended":
            cost = record.__dict__
            self.peak_bytes = max(self.peak_bytes, cost["peak_bytes"])
            self.reserved_bytes = max(self.reserved_bytes, cost["reserved_bytes"])
            self.cpu_s += cost["cpu_s"]


@contextmanager
def record_costs() -> Iterator[CostRecorder]:
    log = logging.getLogger("composition.media.decode")
    recorder, level = CostRecorder(), log.level
    log.addHandler(recorder)
    log.setLevel(logging.INFO)
    try:
        yield recorder
    finally:
        log.removeHandler(recorder)
        log.setLevel(level)


@asynccontextmanager
async def open_server(folder: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve the application in this process, with the default limits of a machine of 8 to 40 GiB."""
    cluster = Cluster(folder).host_models({"qwen-edit": Hosted("qwen-edit")}).host_graphs("rolling-edit")
    settings = IngressSettings(database=cluster.url, artifacts=cluster.where, auth="none", media=OWN_MEMORY)
    transport = httpx.ASGITransport(Ingress(settings, cluster.served, TRANSPORT).build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:  # noqa: S113
        yield client


async def upload_file(client: httpx.AsyncClient, path: Path) -> Outcome:
    """Upload a file, and return what that led to."""
    before = read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)  # noqa: ASYNC240
    with record_costs() as costs, path.open("rb") as file:
        response = await client.post("/v1/files", files={"file": (path.name, file)})
    grown = read_memory("VmHWM") - before
    body = response.json()
    code, message = ("accepted", "") if response.is_success else (body["error"]["code"], body["error"]["message"])
    answer = f"{response.status_code} {code}"
    return Outcome(answer, message, costs.peak_bytes, costs.cpu_s, costs.reserved_bytes, grown)


def read_memory(field: str) -> int:
    """Return a field of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) << 10


def write_files(folder: Path) -> None:
    """Write all hostile files to a folder, each named as its recipe."""
    for name, recipe in RECIPES.items():
        (folder / name).write_bytes(recipe.make())


def read_answers() -> dict[str, str]:
    """Return kind → answer of the rows of the page."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert tuple(rows[0]) == HEADINGS
    return {kind: answer for kind, _, answer, *_ in rows[2:]}


def write_page(rows: Mapping[str, tuple[int, Outcome]]) -> None:
    """Write the page.

    Args:
        rows: name of a recipe → size of its file in bytes, and what its upload led to.
    """
    table = [HEADINGS, ("---",) * len(HEADINGS)]
    for name, (size, outcome) in rows.items():
        kib, mib = f"{max(1, round(size / 1024)):,}" if size else "0", f"{outcome.peak_bytes / MIB:.0f}"
        table.append((RECIPES[name].kind, kib, outcome.answer, mib, f"{outcome.cpu_s:.2f}"))
    PAGE.write_text(INTRODUCTION + "".join(f"| {' | '.join(row)} |\n" for row in table))


async def measure_files(folder: Path) -> dict[str, tuple[int, Outcome]]:
    rows: dict[str, tuple[int, Outcome]] = {}
    async with open_server(folder) as client:
        for name in RECIPES:
            path = folder / name
            outcome = await upload_file(client, path)
            rows[name] = path.stat().st_size, outcome
            print(name, outcome, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name))
        write_page(asyncio.run(measure_files(Path(name))))


if __name__ == "__main__":
    main()
