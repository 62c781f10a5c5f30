import asyncio
import gc
import threading
from contextlib import aclosing

import pytest

from services.errors import Cancelled, DeviceFailed, ModelFailed
from services.worker import Outlet, Worker


class Gate:
    """Work that signals its start and then waits for permission to continue."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()

    def __call__(self, outlet: Outlet[str]) -> None:
        outlet.put("begun")
        self.begun.set()
        assert self.let.wait(10)
        outlet.put("done")


async def collected(worker: Worker, work, key: str = "") -> list:
    return [item async for item in worker.stream(work, key)]


async def begun(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.begun.wait, 10)


async def test_items_come_in_order_and_then_the_stream_ends():
    def work(outlet: Outlet[int]) -> None:
        for number in range(100):
            outlet.put(number)

    assert await collected(Worker("w"), work) == list(range(100))


async def test_an_error_comes_after_the_items_before_it():
    def work(outlet: Outlet[int]) -> None:
        outlet.put(1)
        raise ModelFailed("out of memory")

    items = Worker("w").stream(work)
    assert await anext(items) == 1
    with pytest.raises(ModelFailed, match="out of memory"):
        await anext(items)


async def test_no_error_is_left_to_asyncio_to_complain_about():
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
    worker = Worker("w")

    def failing(outlet: Outlet[int]) -> None:
        raise ModelFailed("no")

    def endless(outlet: Outlet[int]) -> None:
        while True:
            outlet.put(0)

    with pytest.raises(ModelFailed):
        await collected(worker, failing)
    async with aclosing(worker.stream(endless)) as items:
        await anext(items)
    gc.collect()
    await asyncio.to_thread(gc.collect)
    assert complaints == []


async def test_work_runs_one_after_the_other():
    worker, gate, order = Worker("w"), Gate(), []

    def second(outlet: Outlet[str]) -> None:
        order.append("second")

    def first(outlet: Outlet[str]) -> None:
        gate(outlet)
        order.append("first")

    running = asyncio.create_task(collected(worker, first))
    await begun(gate)
    assert worker.busy
    waiting = asyncio.create_task(collected(worker, second))
    await asyncio.to_thread(lambda: None)
    assert order == []
    gate.let.set()
    await asyncio.gather(running, waiting)
    assert order == ["first", "second"]
    assert not worker.busy


async def test_closing_stops_the_work_and_waits_until_it_rests():
    rested = []

    def work(outlet: Outlet[int]) -> None:
        try:
            while True:
                outlet.put(0)
        finally:
            rested.append(True)

    async with aclosing(Worker("w").stream(work)) as items:
        assert await anext(items) == 0
    assert rested == [True]


async def test_cancelling_the_consumer_stops_the_work():
    worker, gate = Worker("w"), Gate()
    task = asyncio.create_task(collected(worker, gate))
    await begun(gate)
    task.cancel()
    gate.let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not worker.busy
    assert await collected(worker, lambda outlet: outlet.put("next")) == ["next"]


async def test_work_cancelled_while_it_waits_never_begins():
    worker, gate, ran = Worker("w"), Gate(), []
    running = asyncio.create_task(collected(worker, gate))
    await begun(gate)
    waiting = asyncio.create_task(collected(worker, lambda outlet: ran.append(True)))
    await asyncio.to_thread(lambda: None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.let.set()
    assert await running == ["begun", "done"]
    assert await collected(worker, lambda outlet: outlet.put("last")) == ["last"]
    assert ran == []


async def test_stop_cancels_what_was_opened_with_the_key():
    worker, gate = Worker("w"), Gate()
    running = asyncio.create_task(collected(worker, gate, "job"))
    await begun(gate)
    worker.stop("another")
    worker.stop("")
    worker.stop("job")
    gate.let.set()
    with pytest.raises(Cancelled):
        await running


async def test_a_second_stream_with_the_same_key_supersedes_the_first():
    worker, first, second = Worker("w"), Gate(), Gate()
    older = asyncio.create_task(collected(worker, first, "job"))
    await begun(first)
    second.let.set()
    newer = asyncio.create_task(collected(worker, second, "job"))
    await asyncio.to_thread(lambda: None)
    first.let.set()
    with pytest.raises(Cancelled):
        await older
    assert await newer == ["begun", "done"]


async def test_the_end_of_the_older_stream_leaves_the_key_to_the_newer_one():
    worker, first, second = Worker("w"), Gate(), Gate()
    older = asyncio.create_task(collected(worker, first, "job"))
    await begun(first)
    newer = asyncio.create_task(collected(worker, second, "job"))
    await asyncio.to_thread(lambda: None)
    first.let.set()
    with pytest.raises(Cancelled):
        await older
    await begun(second)
    worker.stop("job")
    second.let.set()
    with pytest.raises(Cancelled):
        await newer


async def test_streams_without_a_key_do_not_stop_each_other():
    worker, first, second = Worker("w"), Gate(), Gate()
    tasks = [asyncio.create_task(collected(worker, gate)) for gate in (first, second)]
    await begun(first)
    first.let.set()
    second.let.set()
    assert await asyncio.gather(*tasks) == [["begun", "done"]] * 2


async def test_a_lost_device_shows_in_check_and_other_failures_do_not():
    worker = Worker("w")

    def raising(error: Exception):
        def work(outlet: Outlet[int]) -> None:
            raise error

        return work

    with pytest.raises(ModelFailed):
        await collected(worker, raising(ModelFailed("out of memory")))
    worker.check()
    with pytest.raises(DeviceFailed):
        await collected(worker, raising(DeviceFailed("the GPU has failed")))
    for _ in range(2):
        with pytest.raises(DeviceFailed, match="the GPU has failed"):
            worker.check()
