"""Decoder processes and the prepared process: each can die without harm to others, and none outlives its owner."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from composition.media.cost import LIBRARY_BYTES
from composition.media.decode import Decoder, probe_media
from composition.media.decoding.process import DecoderProcess, DecoderProcesses, PreparedProcess
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded, ServiceLost, UndecodableMedia
from tests.composition import sample_media as media
from tests.composition.media.test_decode import numbers, prepared, pulled, workers

ROOT = Path(__file__).parents[3]
OWNER = """
import asyncio, json, os, signal, sys
from pathlib import Path
import psutil
from composition.media.decode import Decoder, probe_media
from services.errors import ReelError

path = Path(sys.argv[1])
me = psutil.Process()

def say(*what):
    print(json.dumps(what), flush=True)
"""
"""First lines of the owners' scripts."""


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.count(tmp_path / "a.mp4")


def started(script: str, path: Path) -> "subprocess.Popen[str]":
    """Start another process that owns decoders."""
    command = [sys.executable, "-c", OWNER + script, str(path)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def said(script: str, path: Path) -> list[list[Any]]:
    """Run an owner to its end, and return what it printed."""
    with started(script, path) as owner:
        out, err = owner.communicate()
        assert owner.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def assert_gone(processes: list[psutil.Process]) -> None:
    """Wait until processes have ended; their parents reap them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(process.pid)) as ended:  # noqa: PTH123
            poll = select.poll()  # select.select would refuse file descriptors above 1,023
            poll.register(ended)
            assert poll.poll(10_000) != []


async def test_every_decoder_is_forked_from_one_process_of_one_thread(video: Path) -> None:
    async with Decoder.open(video) as one, Decoder.open(video) as other:
        await asyncio.gather(one.verify(), other.verify())
        (server,) = prepared()
        assert server.num_threads() == 1
        assert len(workers()) == 2
    assert workers() == []
    await probe_media(video)
    assert prepared() == [server]


async def test_a_decoder_holds_nothing_of_its_owner_or_of_others(video: Path, tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with Decoder.open(video), Decoder.open(video) as second:
            await second.read_last()
            for worker in workers():
                held = [str(fd.readlink()) for fd in fds(worker)]
                sockets = [what for what in held if what.startswith("socket:")]
                assert len(sockets) == 1
                assert sorted(set(held) - set(sockets)) == sorted({"/dev/null", str(video), held[2]})
                assert held[2].endswith("(deleted)")
                assert len(held) == 5


def fds(process: psutil.Process) -> list[Path]:
    return sorted(Path(f"/proc/{process.pid}/fd").iterdir(), key=lambda fd: int(fd.name))


async def test_a_decoder_has_its_own_limits_and_the_prepared_process_none(video: Path) -> None:
    async with Decoder.open(video, MediaLimits(memory_bytes=1 << 30)) as decoder:
        (worker,), (server,) = workers(), prepared()
        limits = worker.rlimit(psutil.RLIMIT_DATA)
        assert limits is not None
        libraries = limits[0] - decoder.cost.memory_bytes
        assert 32 << 20 < libraries <= LIBRARY_BYTES
        assert limits[1] == 1 << 30
        assert 1 << 30 < worker.rlimit(psutil.RLIMIT_AS)[0] < 3 << 30
        assert read_badness(worker) == "1000"
        assert worker.rlimit(psutil.RLIMIT_NOFILE) == (64, 64)
        assert worker.rlimit(psutil.RLIMIT_FSIZE) == (1 << 16, 1 << 16)
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert 0 < worker.rlimit(psutil.RLIMIT_CPU)[0] < 1000
        for limit in (
            psutil.RLIMIT_AS,
            psutil.RLIMIT_DATA,
            psutil.RLIMIT_NOFILE,
            psutil.RLIMIT_FSIZE,
            psutil.RLIMIT_CPU,
        ):
            assert server.rlimit(limit) == resource.getrlimit(limit)


def read_badness(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip()


def test_a_decoder_writes_none_of_python_s_caches() -> None:
    """Its limit of written bytes would cut them, and Python would keep what was written."""
    script = """
import sys
from composition.media.decoding.headers import Limits
from composition.media.decoding.worker import limit_resources
from composition.media.limits import MediaLimits
limit_resources(Limits(**MediaLimits().model_dump()))
print(sys.dont_write_bytecode)
"""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert run.stdout == "True\n"


async def test_the_memory_limit_counts_what_is_shared(video: Path) -> None:
    """Shared libraries count in full for every process."""
    async with Decoder.open(video):
        (worker,), (server,) = workers(), prepared()
        memory = worker.memory_full_info()
        assert memory.vms >= server.memory_info().vms > 128 << 20
        assert memory.uss < 64 << 20


async def test_the_smallest_memory_limit_leaves_room_for_a_picture(tmp_path: Path) -> None:
    path = media.picture(tmp_path / "a.png", media.solid((200, 30, 90)))
    assert (await probe_media(path, MediaLimits(memory_bytes=256 << 20))).kind == "image"


async def test_a_bomb_beside_a_good_file_costs_one_process(video: Path, tmp_path: Path) -> None:
    bomb = media.picture(tmp_path / "a.png", np.zeros((2300, 4000, 3), np.uint8))
    bad, good = await asyncio.gather(
        probe_media(bomb, MediaLimits(memory_bytes=256 << 20)), probe_media(video), return_exceptions=True
    )
    assert isinstance(bad, LimitExceeded | UndecodableMedia)
    assert not isinstance(good, BaseException)
    assert good.frames == 40


async def test_a_crash_touches_no_other_decoder(video: Path) -> None:
    async with Decoder.open(video) as one:
        (first,), servers = workers(), prepared()
        async with Decoder.open(video) as other:
            first.send_signal(signal.SIGSEGV)
            with pytest.raises(UndecodableMedia, match="crashed"):
                await one.read_last()
            assert numbers(await pulled(other)) == list(range(40))
        assert (await probe_media(video)).frames == 40
    assert (workers(), prepared()) == ([], servers)


async def test_a_prepared_process_that_was_killed_is_replaced(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Decoder.open(video, param="input_video") as decoder:
        (worker,), (server,) = workers(), prepared()
        server.kill()
        assert_gone([server, worker])
        with caplog.at_level(logging.WARNING), pytest.raises(ServiceLost, match="was lost") as caught:
            await decoder.read_last()
        assert caught.value.retryable
        (of_the_server, of_the_worker) = (record.__dict__["exit"] for record in caplog.records)
        assert (of_the_server, of_the_worker) == (-signal.SIGKILL, None)
        with pytest.raises(ServiceLost):
            await decoder.read_last()
        assert (await probe_media(video)).frames == 40
    (other,) = prepared()
    assert other.pid != server.pid


async def test_one_that_is_killed_between_two_files_is_replaced(video: Path) -> None:
    await probe_media(video)
    (server,) = prepared()
    server.kill()
    assert_gone([server])
    assert (await probe_media(video)).frames == 40


async def test_one_that_dies_before_it_is_ready_is_told(video: Path) -> None:
    for server in prepared():
        server.kill()
        assert_gone([server])
    checking = asyncio.create_task(probe_media(video))
    await asyncio.wait([checking], timeout=0)
    prepared()[0].kill()
    with pytest.raises(ServiceLost):
        await checking
    assert (await probe_media(video)).frames == 40


async def test_cancelling_before_it_is_ready_leaves_nothing(video: Path) -> None:
    for server in prepared():
        server.kill()
        assert_gone([server])
    checking = asyncio.create_task(probe_media(video))
    await asyncio.wait([checking], timeout=0)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert len(prepared()) == 1
    assert workers() == []


def test_one_that_hangs_is_killed_and_replaced() -> None:
    others = prepared()
    processes = DecoderProcesses(kill_s=0.1)
    decoder = begun(processes)
    (server,) = (process for process in prepared() if process not in others)
    (worker,) = server.children()
    server.suspend()
    assert decoder.end() is None
    assert_gone([server, worker])
    decoder.close()
    begun(processes).close()
    processes.close()
    assert prepared() == others


def begun(processes: DecoderProcesses) -> DecoderProcess:
    """Start a decoder, and wait until it reports that it is running."""
    decoder = processes.start()
    decoder.link.setblocking(True)
    assert "pid" in receive_answer(decoder.link)
    return decoder


def receive_answer(link: socket.socket) -> dict[str, Any]:
    (size,) = struct.unpack(">I", link.recv(4, socket.MSG_WAITALL))
    return json.loads(link.recv(size, socket.MSG_WAITALL))


@pytest.mark.parametrize("room", [1, 2, 3])
async def test_a_fork_that_fails_fails_alone(video: Path, room: int) -> None:
    """The prepared process has too few file descriptors for a request, or for reading /proc/self/task."""
    async with Decoder.open(video) as decoder:
        (worker,), (server,) = workers(), prepared()
        before = server.rlimit(psutil.RLIMIT_NOFILE)
        assert before is not None
        taken = {int(fd.name) for fd in fds(server)}
        free = (number for number in itertools.count() if number not in taken)
        server.rlimit(psutil.RLIMIT_NOFILE, (next(itertools.islice(free, room, None)), before[1]))
        with pytest.raises(ServiceLost, match="did not start"):
            await probe_media(video)
        assert (workers(), prepared()) == ([worker], [server])
        server.rlimit(psutil.RLIMIT_NOFILE, before)
        assert (await probe_media(video)).frames == 40
        assert numbers((await decoder.read_last()).pixels) == [39]


def test_one_that_lives_is_not_buried() -> None:
    prepared_process = PreparedProcess(kill_s=0.01)
    try:
        prepared_process.await_end()
        theirs, ours = socket.socketpair(), socket.socketpair()
        with theirs[0], theirs[1], ours[0], ours[1]:
            prepared_process.fork_decoder([theirs[0].fileno(), ours[0].fileno(), ours[0].fileno()])
            assert "pid" in receive_answer(ours[1])
    finally:
        prepared_process.end()


async def test_a_hundred_files_leave_nothing(tmp_path: Path) -> None:
    path = media.picture(tmp_path / "a.png", media.solid((200, 30, 90)))
    await probe_media(path)
    (server,) = prepared()
    ours = psutil.Process()
    before = ours.num_fds() + server.num_fds()
    for _ in range(100):
        await probe_media(path)
    assert ours.num_fds() + server.num_fds() < before + 10  # the last request may not have been released yet
    assert (workers(), prepared()) == ([], [server])


def test_threads_with_loops_of_their_own_share_it(video: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(probe_media(video)).frames)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [40] * 4
    assert len(prepared()) == 1
    assert workers() == []


def test_everything_ends_with_an_owner_that_is_killed(video: Path) -> None:
    script = """
async def main():
    async with Decoder.open(path), Decoder.open(path):
        me.children()[0].children()[0].suspend()
        say(*(process.pid for process in me.children(recursive=True)))
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with started(script, video) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(pid) for pid in json.loads(owner.stdout.readline())]
        assert len(processes) == 3
        owner.kill()
    assert_gone(processes)


def test_everything_ends_with_its_owner_although_a_fork_of_that_lives_on(video: Path) -> None:
    script = """
async def main():
    async with Decoder.open(path):
        processes = me.children(recursive=True)
        fork = os.fork()
        if fork == 0:
            signal.pause()
        say(fork, *(process.pid for process in processes))
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with started(script, video) as owner:
        assert owner.stdout is not None
        fork, *processes = [psutil.Process(pid) for pid in json.loads(owner.stdout.readline())]
        assert len(processes) == 2
        owner.kill()
    assert_gone(processes)
    assert fork.is_running()
    fork.kill()


def test_a_fork_of_an_owner_has_a_prepared_process_of_its_own(video: Path) -> None:
    script = """
asyncio.run(probe_media(path))
servers = [server.pid for server in me.children()]
fork = os.fork()
if fork == 0:
    asyncio.run(probe_media(path))
    say("fork", [server.pid for server in psutil.Process().children()])
    sys.exit()
_, status = os.waitpid(fork, 0)
asyncio.run(probe_media(path))
say("owner", status, servers == [server.pid for server in me.children()])
"""
    (name, servers), owner = said(script, video)
    assert (name, owner) == ("fork", ["owner", 0, True])
    assert len(servers) == 1
    assert not psutil.pid_exists(servers[0])


def test_an_owner_that_ends_leaves_nothing(video: Path) -> None:
    ((*pids,),) = said("asyncio.run(probe_media(path)); say(*(server.pid for server in me.children()))", video)
    assert len(pids) == 1
    assert not psutil.pid_exists(pids[0])


def test_signals_that_the_owner_ignores_or_blocks_do_not_matter(video: Path) -> None:
    script = """
for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGXCPU])
async def main():
    for number in (signal.SIGSEGV, signal.SIGXCPU):
        async with Decoder.open(path) as decoder:
            (worker,) = me.children()[0].children()
            worker.send_signal(number)
            try:
                await decoder.read_last()
            except ReelError as error:
                say(error.message)
    say((await probe_media(path)).frames, len(me.children(recursive=True)))
asyncio.run(main())
"""
    crashed = ["the decoder crashed on the file"]
    assert said(script, video) == [crashed, crashed, [40, 1]]


def test_an_owner_that_has_no_room_for_files_is_told(video: Path) -> None:
    script = """
import resource
async def main():
    await probe_media(path)
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (me.num_fds() + room, hard))
        try:
            await probe_media(path)
        except ReelError as error:
            say(error.code)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    say((await probe_media(path)).frames)
asyncio.run(main())
"""
    assert said(script, video) == [["service_lost"]] * 4 + [[40]]


def test_a_process_with_threads_does_not_fork(video: Path) -> None:
    script = """
import socket, threading
from composition.media.decoding.fork_server import ForkServer
ours, control = socket.socketpair()
lifeline, theirs = socket.socketpair()
socket.send_fds(ours, [b"\\0"], [theirs.fileno()] * 3)
over = threading.Event()
threading.Thread(target=over.wait).start()
try:
    ForkServer(control).serve()
except RuntimeError as error:
    say(str(error))
over.set()
"""
    (((message,)),) = said(script, video)
    assert "has 2 threads" in message


def test_who_asks_imports_no_decoder_and_starts_none_before_it_asks(video: Path) -> None:
    script = 'say([name for name in ("av", "decord", "PIL") if name in sys.modules], len(me.children()))'
    assert said(script, video) == [[[], 0]]
