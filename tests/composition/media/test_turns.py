"""Turns of decoders: who is served when, and what happens to those who wait or give up."""

import asyncio
import math
import os
import re
import threading
from pathlib import Path

import psutil
import pytest

from composition.media.decode import Decoder
from composition.media.decoding.lifeline import LOW_PRIORITY
from composition.media.processors import count_processors
from composition.media.turns import QUICK_CPU_S, Lanes, Pace, Turns, make_lanes
from services.errors import ServiceBusy
from tests.composition import sample_media as media
from tests.composition.media.test_decode import workers
from tests.waiting import until

LONG_S = 60.0
SHORT_S = 0.05
"""A deadline, after which a clock is moved by hand."""


class Room:
    """Turns, and those who hold them until they are told to leave."""

    def __init__(self, count: int, most: int) -> None:
        self.turns = Turns(count, most, lambda: self.now_s)
        self.now_s = 0.0
        self.order: list[str] = []
        """Names of those who got a turn, in order."""
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, *names: str) -> None:
        """Let some come, one after another; the first letter of a name is its owner."""
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name))
            await settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
            await self._tasks[name]
            await settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    async def _hold(self, name: str) -> None:
        async with self.turns.take(name[0], LONG_S):
            self.order.append(name)
            await self._leave[name].wait()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_owner_never_holds_all_turns() -> None:
    room = Room(3, 2)
    await room.enter("a1", "a2", "a3", "a4")
    assert room.order == ["a1", "a2"]
    await room.enter("b1")
    assert room.order == ["a1", "a2", "b1"]
    await room.leave("b1")
    assert room.order == ["a1", "a2", "b1"]
    await room.leave("a1", "a2", "a3", "a4")
    assert room.order == ["a1", "a2", "b1", "a3", "a4"]


async def test_a_free_turn_goes_to_who_holds_fewest_and_then_to_who_had_least() -> None:
    room = Room(2, 1)
    await room.enter("x1", "y1", "a1", "a2", "a3", "a4", "b1", "b2", "c1")
    await room.leave("x1")
    for name, seconds in {"a1": 5, "b1": 6, "c1": 1, "a2": 2, "b2": 1, "a3": 1}.items():
        assert room.order[-1] == name
        room.now_s += seconds
        await room.leave(name)
    assert room.order[-1] == "a4"
    await room.leave("a4", "y1")


async def test_who_comes_anew_has_no_credit_for_the_time_before() -> None:
    room = Room(2, 1)
    await room.enter("x1", "a1", "a2", "a3", "a4")
    for name in ("a1", "a2"):
        room.now_s += 10
        await room.leave(name)
    await room.enter("b1", "b2")
    room.now_s += 10
    await room.leave("a3")
    assert room.order[-1] == "b1"
    room.now_s += 11
    await room.leave("b1")
    assert room.order[-1] == "a4"
    await room.leave("a4", "b2", "x1")
    assert room.turns._shares == {}


async def test_who_gives_up_leaves_no_trace() -> None:
    room = Room(2, 1)
    await room.enter("a1", "a2", "a3", "b1", "b2")
    await room.give_up("a2")  # waits
    await room.give_up("b1")  # holds a turn
    assert room.order == ["a1", "b1", "b2"]
    await room.leave("a1", "a3", "b2")
    assert room.order == ["a1", "b1", "b2", "a3"]
    assert (room.turns._free, room.turns._shares) == (2, {})


async def test_a_turn_that_comes_while_its_waiter_is_cancelled_is_passed_on() -> None:
    room = Room(2, 1)
    await room.enter("a1", "a2", "a3")
    room._leave["a1"].set()
    await room._tasks["a1"]  # a2 is granted the turn, and is cancelled before it hears of it
    room._tasks["a2"].cancel()
    await settle()
    assert room.order == ["a1", "a3"]
    await room.leave("a3")
    assert (room.turns._free, room.turns._shares) == (2, {})


async def test_a_wait_is_bounded_and_says_by_what() -> None:
    turns = Turns(2, 1)
    async with turns.take("ann", LONG_S):
        with pytest.raises(ServiceBusy, match=re.escape("longer than 0.01 s (turn_wait_s)")) as caught:
            async with turns.take("ann", 0.01):
                pass
        assert (caught.value.status, caught.value.retryable) == (503, True)
    async with turns.take("ann", LONG_S):
        pass
    assert (turns._free, turns._shares) == (2, {})


def test_threads_with_loops_of_their_own_share_turns() -> None:
    turns = Turns(3, 2)
    held, most = 0, 0
    lock = threading.Lock()

    async def work(owner: str) -> None:
        nonlocal held, most
        for _ in range(50):
            async with turns.take(owner, LONG_S):
                with lock:
                    held += 1
                    most = max(most, held)
                await asyncio.sleep(0)
                with lock:
                    held -= 1

    async def work_twice(owner: str) -> None:
        await asyncio.gather(work(owner), work(owner))

    threads = [threading.Thread(target=lambda owner=owner: asyncio.run(work_twice(owner))) for owner in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 3
    assert (turns._free, turns._shares) == (3, {})


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_container_may_use_fewer_processors_than_its_machine_has(
    tmp_path: Path, files: dict[str, str], limit: float
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_processors(tmp_path) == min(len(os.sched_getaffinity(0)), limit)


class Machine:
    """A process that works only while it may, and has used as much processor time as it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.used_s = 0.0
        self.delayed_s = 0.0
        self.commands: asyncio.Queue[str] = asyncio.Queue()
        self.done = asyncio.Event()

    def measure_cpu(self) -> float:
        return self.used_s

    def measure_delay(self) -> float:
        return self.delayed_s

    def suspend(self) -> None:
        self.commands.put_nowait("suspend")

    def resume(self) -> None:
        self.commands.put_nowait("resume")

    async def work(self) -> int:
        await self.done.wait()
        self.done.clear()
        return 7


def make_pace(machine: Machine, lanes: Lanes, owner: str = "ann", wait_s: float = LONG_S) -> Pace:
    return Pace(machine, owner, wait_s, lanes, lambda: machine.now_s)


async def test_a_quick_operation_is_not_touched() -> None:
    machine, lanes = Machine(), make_lanes(1)
    machine.used_s = QUICK_CPU_S / 2
    running = asyncio.create_task(make_pace(machine, lanes).run(machine.work, LONG_S))
    machine.done.set()
    assert await running == 7
    assert machine.commands.empty()


async def test_a_slow_one_frees_its_quick_turn_and_waits_suspended_for_a_slow_one() -> None:
    lanes = make_lanes(1)
    one, other = Machine(), Machine()
    paces = [make_pace(machine, lanes) for machine in (one, other)]
    one.used_s = other.used_s = QUICK_CPU_S
    first, second = [asyncio.create_task(p.run(m.work, LONG_S)) for p, m in zip(paces, (one, other), strict=True)]
    assert [await one.commands.get(), await one.commands.get()] == ["suspend", "resume"]
    assert await other.commands.get() == "suspend"
    async with asyncio.timeout(LONG_S), lanes.quick.take("ann", LONG_S):
        pass
    one.done.set()
    assert other.commands.empty()
    assert await first == 7
    assert await other.commands.get() == "resume"
    other.done.set()
    assert await second == 7
    later = asyncio.create_task(paces[0].run(one.work, LONG_S))  # needs no suspending, only a turn
    one.done.set()
    assert await later == 7
    assert one.commands.empty()


async def test_one_that_is_known_to_be_slow_takes_no_quick_turn() -> None:
    lanes, machine = make_lanes(1), Machine()
    pace = make_pace(machine, lanes)
    pace.expect(QUICK_CPU_S / 2)
    assert machine.commands.empty()
    pace.expect(QUICK_CPU_S * 2)
    async with lanes.quick.take("ann", LONG_S):
        running = asyncio.create_task(pace.run(machine.work, LONG_S))
        assert [await machine.commands.get(), await machine.commands.get()] == ["suspend", "resume"]
        machine.done.set()
        assert await running == 7


async def test_waiting_for_a_turn_does_not_count_towards_the_deadline() -> None:
    lanes, machine = make_lanes(1), Machine()
    machine.used_s = QUICK_CPU_S
    pace = make_pace(machine, lanes)
    async with lanes.slow.take("ann", LONG_S):
        running = asyncio.create_task(pace.run(machine.work, SHORT_S))
        assert await machine.commands.get() == "suspend"
        machine.now_s += LONG_S
        await asyncio.wait([running], timeout=2 * SHORT_S)
        assert not running.done()
    assert await machine.commands.get() == "resume"
    machine.now_s += SHORT_S / 2
    await asyncio.wait([running], timeout=2 * SHORT_S)
    machine.done.set()
    assert await running == 7
    assert lanes.slow._free == lanes.quick._free == 2


async def test_one_that_hangs_without_using_the_processor_meets_its_deadline() -> None:
    lanes, machine = make_lanes(1), Machine()
    running = asyncio.create_task(make_pace(machine, lanes).run(machine.work, SHORT_S))
    await settle()
    machine.now_s += SHORT_S
    with pytest.raises(TimeoutError):
        await running
    assert lanes.quick._free == 2


async def test_one_that_others_keep_from_the_processor_has_more_time_but_not_any() -> None:
    lanes, machine = make_lanes(1), Machine()
    pace = make_pace(machine, lanes)
    running = asyncio.create_task(pace.run(machine.work, SHORT_S))
    await settle()
    machine.delayed_s = 7.5 * SHORT_S
    machine.now_s = 8 * SHORT_S
    await asyncio.wait([running], timeout=2 * SHORT_S)
    machine.done.set()
    assert await running == 7
    running = asyncio.create_task(pace.run(machine.work, SHORT_S))
    await settle()
    machine.delayed_s += 10 * SHORT_S
    machine.now_s += 10 * SHORT_S
    with pytest.raises(TimeoutError):
        await running


@pytest.mark.parametrize("used_s", [0, QUICK_CPU_S], ids=["quick", "slow"])
async def test_an_operation_that_is_cancelled_gives_its_turn_back(used_s: float) -> None:
    lanes = make_lanes(1)
    machines = [Machine(), Machine()]
    tasks: list[asyncio.Task[int]] = []
    for machine in machines:
        machine.used_s = used_s
        tasks.append(asyncio.create_task(make_pace(machine, lanes).run(machine.work, LONG_S)))
    await settle()
    for task in tasks:  # one works, the other waits
        task.cancel()
    await asyncio.wait(tasks)
    assert (lanes.quick._free, lanes.slow._free) == (2, 2)
    assert lanes.quick._shares == lanes.slow._shares == {}


async def test_a_decoder_that_uses_much_time_is_lowered_and_reports_what_it_used(tmp_path: Path) -> None:
    path = media.count(tmp_path / "a.mp4")
    async with Decoder.open(path) as decoder:
        (worker,) = workers()
        process = decoder._process
        assert worker.nice() == os.nice(0)
        process.suspend()
        until(lambda: read_session_priority(worker) in (None, LOW_PRIORITY), what="the low priority")
        until(lambda: set(read_nice_values(worker)) == {LOW_PRIORITY}, what="the low priority")
        until(lambda: worker.status() == psutil.STATUS_STOPPED, what="the stop")
        process.resume()
        await decoder.verify()
        used_s = process.measure_cpu()
        assert used_s > 0
    assert process.status is not None
    assert process.status.cpu_s >= used_s - 0.02
    assert 16 << 20 < process.status.peak_bytes < 1 << 30


def read_nice_values(process: psutil.Process) -> list[int]:
    """Return the priority of each thread."""
    return [
        int((thread / "stat").read_text().rpartition(")")[2].split()[16])
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
    ]


def read_session_priority(process: psutil.Process) -> int | None:
    """Return the priority of the process's session; None if Linux has none."""
    group = Path(f"/proc/{process.pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


async def test_a_suspended_decoder_can_be_killed(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        (worker,) = workers()
        decoder._process.suspend()
        until(lambda: worker.status() == psutil.STATUS_STOPPED, what="the stop")
    assert workers() == []
