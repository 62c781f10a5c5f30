"""The budget of memory of all decoders: shared between processes, given back by those that die, fair to owners."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from composition.media.decode import Decoder, probe_media
from composition.media.limits import MediaLimits
from composition.media.memory_budget import UNIT_BYTES, MemoryBudget, Reservation
from composition.media.node_memory import NodeMemory, choose_budget, read_node_memory
from services.errors import LimitExceeded, ServiceBusy, ServiceLost
from tests.composition import sample_media as media

ROOT = Path(__file__).parents[3]
GIB, MIB = 1 << 30, 1 << 20
FREE = NodeMemory(64 * GIB, GIB)
TOTAL = 40 * UNIT_BYTES
HOLDER = """
import asyncio, sys
from pathlib import Path
from composition.media.memory_budget import MemoryBudget
from composition.media.node_memory import NodeMemory

budget = MemoryBudget(int(sys.argv[2]), 0, folder=Path(sys.argv[1]), read_memory=lambda: NodeMemory(1 << 36, 0))
reservation = budget.open_reservation(sys.argv[4])
asyncio.run(reservation.resize(int(sys.argv[3])))
print("held", flush=True)
sys.stdin.read()
"""
"""Another process that takes memory and keeps it."""


def make_budget(folder: Path, *, wait_s: float = 0, memory: NodeMemory = FREE) -> MemoryBudget:
    return MemoryBudget(TOTAL, wait_s, folder=folder / "runtime", read_memory=lambda: memory)


def start_holder(folder: Path, units: int, owner: str) -> "subprocess.Popen[str]":
    """Start a process that holds units, and return when it holds them."""
    command = [sys.executable, "-c", HOLDER, str(folder / "runtime"), str(TOTAL), str(units * UNIT_BYTES), owner]
    holder = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Reservation]:
    with closing(make_budget(tmp_path).open_reservation("alice")) as reservation:
        yield reservation


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Reservation]:
    with closing(make_budget(tmp_path).open_reservation("bob")) as reservation:
        yield reservation


async def test_what_one_takes_another_lacks_until_it_is_given_back(first: Reservation, second: Reservation) -> None:
    await first.resize(25 * UNIT_BYTES)
    with pytest.raises(ServiceBusy, match=r"node_memory_bytes") as caught:
        await second.resize(16 * UNIT_BYTES)
    assert caught.value.retryable
    assert second.size == 0
    await second.resize(15 * UNIT_BYTES)
    await first.resize(10 * UNIT_BYTES)
    await second.resize(30 * UNIT_BYTES)
    second.close()
    await first.resize(30 * UNIT_BYTES)
    assert (first.size, second.size) == (30 * UNIT_BYTES, 0)


async def test_a_part_of_a_unit_is_a_unit(first: Reservation) -> None:
    await first.resize(UNIT_BYTES + 1)
    assert first.size == 2 * UNIT_BYTES


async def test_no_owner_takes_all(tmp_path: Path, first: Reservation, second: Reservation) -> None:
    await first.resize(20 * UNIT_BYTES)
    with closing(make_budget(tmp_path).open_reservation("alice")) as another:
        with pytest.raises(ServiceBusy):
            await another.resize(11 * UNIT_BYTES)
        await another.resize(10 * UNIT_BYTES)
        await second.resize(10 * UNIT_BYTES)


async def test_what_nobody_may_take_is_refused_at_once(first: Reservation) -> None:
    with pytest.raises(LimitExceeded, match=r"248 MiB .* 240 MiB, three quarters .* \(node_memory_bytes\)"):
        await first.resize(31 * UNIT_BYTES)


async def test_who_waits_gets_what_becomes_free(tmp_path: Path, first: Reservation) -> None:
    await first.resize(30 * UNIT_BYTES)
    with closing(make_budget(tmp_path, wait_s=30).open_reservation("bob")) as waiting:
        task = asyncio.create_task(waiting.resize(20 * UNIT_BYTES))
        await asyncio.wait([task], timeout=0)
        first.close()
        await task
        assert waiting.size == 20 * UNIT_BYTES


async def test_another_process_has_its_share_until_it_is_killed(tmp_path: Path, first: Reservation) -> None:
    with start_holder(tmp_path, 25, "bob") as holder:
        with pytest.raises(ServiceBusy):
            await first.resize(16 * UNIT_BYTES)
        holder.kill()
    await first.resize(30 * UNIT_BYTES)


async def test_an_owner_is_the_same_in_every_process(tmp_path: Path, first: Reservation) -> None:
    with start_holder(tmp_path, 20, "alice") as holder:
        with pytest.raises(ServiceBusy):
            await first.resize(11 * UNIT_BYTES)
        holder.kill()


async def test_nothing_is_taken_when_the_machine_is_nearly_full(tmp_path: Path) -> None:
    used = int(0.95 * 64 * GIB) - 10 * UNIT_BYTES
    budget = make_budget(tmp_path, memory=NodeMemory(64 * GIB, used))
    with closing(budget.open_reservation()) as reservation:
        with pytest.raises(ServiceBusy, match="near the memory from which on Ray ends processes"):
            await reservation.resize(11 * UNIT_BYTES)
        await reservation.resize(9 * UNIT_BYTES)


def test_a_fork_does_not_keep_what_its_parent_gave_back(tmp_path: Path, first: Reservation) -> None:
    asyncio.run(first.resize(30 * UNIT_BYTES))
    parent, child = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        parent.close()
        child.send(b"f")
        child.recv(1)
        os._exit(0)
    child.close()
    assert parent.recv(1) == b"f"
    first.close()
    with parent, closing(make_budget(tmp_path).open_reservation("bob")) as second:
        asyncio.run(second.resize(30 * UNIT_BYTES))
    os.waitpid(pid, 0)


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_is_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime").chmod(mode)
    with pytest.raises(ServiceLost, match="closed to others"):
        make_budget(tmp_path).open_reservation()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "runtime").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServiceLost):
        make_budget(tmp_path).open_reservation()


def test_the_budget_is_what_ray_leaves_free() -> None:
    assert choose_budget(100 * GIB, 0.95) == pytest.approx(5 * GIB)
    assert choose_budget(100 * GIB, 0.8) == pytest.approx(20 * GIB)
    assert choose_budget(16 * GIB, 0.95) == choose_budget(8 * GIB, 0.95) == 2 * GIB
    assert choose_budget(2 * GIB, 0.95) == GIB // 2


def write_memory(folder: Path, files: dict[str, str]) -> NodeMemory:
    """Write files of a machine of 8 GiB, of which 5 are free, and of its control groups, and read them."""
    for name, text in {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 5242880 kB\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return read_node_memory(folder / "proc", folder / "cgroup")


def test_memory_is_that_of_the_machine_or_of_what_limits_it(tmp_path: Path) -> None:
    assert write_memory(tmp_path, {}) == NodeMemory(8 * GIB, 3 * GIB)
    unlimited = {"cgroup/memory/memory.limit_in_bytes": str(1 << 62), "cgroup/memory/memory.usage_in_bytes": "5"}
    assert write_memory(tmp_path, unlimited) == NodeMemory(8 * GIB, 3 * GIB)
    old = {
        "cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
        "cgroup/memory/memory.usage_in_bytes": str(2 * GIB),
        "cgroup/memory/memory.stat": f"total_inactive_file {GIB // 2}\ntotal_active_file {GIB // 4}\n",
    }
    assert write_memory(tmp_path, old) == NodeMemory(4 * GIB, 5 * GIB // 4)
    new = {
        "cgroup/memory.max": str(2 * GIB),
        "cgroup/memory.current": str(GIB),
        "cgroup/memory.stat": f"anon 7\ninactive_file {GIB // 4}\nactive_file 0\n",
    }
    assert write_memory(tmp_path, new) == NodeMemory(2 * GIB, 3 * GIB // 4)


async def test_a_file_waits_for_memory_and_is_refused_and_served_afterwards(tmp_path: Path) -> None:
    path = media.count(tmp_path / "a.mp4")
    folder = tmp_path / "runtime"
    limits = MediaLimits(node_memory_bytes=512 * MIB, node_memory_folder=str(folder), node_memory_wait_s=0)
    with closing(MemoryBudget(512 * MIB, 0, folder=folder).open_reservation("alice")) as taken:
        await taken.resize(384 * MIB)
        async with Decoder.open(path, limits, param="input_video", owner="bob") as decoder:
            assert decoder.facts.frames == 40
            with pytest.raises(ServiceBusy, match=r"decoding needs .* \(node_memory_bytes\)") as caught:
                await probe_media(path, limits, param="input_video", owner="carol")
        assert caught.value.status == 503
    assert (await probe_media(path, limits, owner="carol")).frames == 40


async def test_a_file_above_the_budget_is_refused_with_numbers(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", [media.solid((1, 2, 3), 4096, 2304)] * 3)
    limits = MediaLimits(node_memory_bytes=256 * MIB, node_memory_folder=str(tmp_path / "runtime"))
    with pytest.raises(LimitExceeded, match=r"^a: decoding needs .* MiB .* 192 MiB, three quarters"):
        await probe_media(path, limits, param="a")
