"""Decoder processes try to reach other files, the network and other processes, and cannot."""

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from composition.media.confinement import landlock, seccomp
from composition.media.confinement.privileges import maps_nobody
from composition.media.confinement.status import Confinement, read_confinement, report_confinement
from composition.media.confinement.system_calls import NUMBERS
from composition.media.decode import Decoder, probe_media
from composition.media.decoding.lifeline import STATUS, Status
from composition.media.decoding.process import ENVIRONMENT
from composition.media.limits import MediaLimits
from tests.composition import albums
from tests.composition import sample_media as media
from tests.composition.media.attempts import RECENT
from tests.composition.media.test_decode import prepared, workers

ROOT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
MACHINE = os.uname().machine
CAP_DAC_READ_SEARCH = 1 << 2
DENIED = {"EACCES", "EPERM"}
"""Errors of Landlock and of the filter."""


@pytest.fixture
def video() -> Generator[Path]:
    """A video in a folder that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="reelgraph-confinement-") as folder:
        Path(folder).chmod(0o755)
        other, path = Path(folder, "other"), media.count(Path(folder, "a.mp4"))
        other.write_bytes(b"of another person")
        for each in (other, path):
            each.chmod(0o600)
        yield path


@contextlib.contextmanager
def prepare_attempts(*before: str) -> Generator[socket.socket]:
    """Start a process that forks as the prepared one does. `before` is a command that runs it."""
    ours, control = socket.socketpair()
    command = [*before, sys.executable, "-P", "-m", "tests.composition.media.attempts", str(control.fileno())]
    with ours, control:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd="/", pass_fds=(control.fileno(),))
        control.close()
        try:
            yield ours
        finally:
            ours.close()
            process.wait()


def attempt(server: socket.socket, path: Path, what: str, **more: Any) -> dict[str, Any] | int:
    """Let a decoder of `path` try something. Return its answer, or its exit status if it died."""
    lifeline, leash = socket.socketpair()
    ours, link = socket.socketpair()
    with lifeline, ours:
        with leash, link:
            socket.send_fds(server, [b"\0"], [leash.fileno(), link.fileno(), sys.__stderr__.fileno()])  # pyright: ignore[reportOptionalMemberAccess]
        limits = MediaLimits(**more.pop("limits", {})).model_dump()
        request = {"path": str(path), "limits": limits, "takes_sound": False, "try": what, "owner": os.getpid(), **more}
        data = json.dumps(request).encode()
        assert receive(ours) == {}
        ours.sendall(struct.pack(">I", len(data)) + data)
        answer = receive(ours)
        status = Status.parse(lifeline.recv(STATUS.size))
    return status.code if answer is None else answer


def receive(link: socket.socket) -> dict[str, Any] | None:
    head = link.recv(4, socket.MSG_WAITALL)
    return json.loads(link.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)) if head else None


def run_attempt(path: Path, what: str, **more: Any) -> dict[str, Any]:
    with prepare_attempts() as server:
        answer = attempt(server, path, what, **more)
    assert isinstance(answer, dict), answer
    return answer


def test_the_status_of_this_machine() -> None:
    """The tests of attempts need both layers; on a machine without, the status must say so."""
    confinement = read_confinement()
    assert (confinement.landlock, confinement.seccomp) == (landlock.read_version(), seccomp.is_available())
    assert bool(confinement.missing) == (not confinement.landlock or not confinement.seccomp)
    assert Confinement(0, True, None).missing == ("no Landlock: decoders can read files as this process can",)
    assert Confinement(7, True, None).missing == ()


@needs_root
@pytest.mark.parametrize("what", ["sockets", "files", "processes", "calls"])
@pytest.mark.parametrize("user", [0, 1234])
def test_a_decoder_that_tries_cannot(video: Path, what: str, user: int) -> None:
    content = video.read_bytes()
    if user:
        os.chown(video, user, user)
    answers = run_attempt(video, what, user=user)
    assert {name: each for name, each in answers.items() if each not in {*DENIED, "ENOSYS"}} == {}
    assert len(answers) >= 10
    assert video.read_bytes() == content
    assert sorted(path.name for path in video.parent.iterdir()) == ["a.mp4", "other"]


def test_a_process_that_is_not_confined_can(video: Path) -> None:
    """Otherwise the test above would prove nothing."""
    sockets = run_attempt(video, "sockets", free=True)
    assert [sockets[name] for name in ("socket tcp", "socket udp", "socket unix", "socket netlink", "socketpair")] == [
        "done"
    ] * 5
    files = run_attempt(video, "files", free=True)
    reading = ("read /etc/passwd", "read /proc/self/environ", f"read /proc/{os.getpid()}/environ", "list /")
    assert [files[name] for name in (*reading, "create a file", "remove")] == ["done"] * 6


def test_recent_calls_seem_to_be_missing(video: Path) -> None:
    """Libraries then use older ones, as glibc does without clone3."""
    answers = run_attempt(video, "calls")
    assert {answers[name] for name in RECENT} == {"ENOSYS"}


@needs_root
@pytest.mark.parametrize("user", [0, 1234])
def test_a_confined_decoder_decodes_in_threads(video: Path, user: int) -> None:
    os.chown(video, user, user)
    answer = run_attempt(video, "media", user=user)
    assert (answer["threads"], answer["facts"]["frames"], answer["shape"], answer["uid"]) == (
        True,
        40,
        [4, 48, 64, 3],
        user,
    )


@pytest.mark.skipif(MACHINE != "x86_64", reason="aarch64 has one set of system calls")
@pytest.mark.parametrize("calls", ["x32", "i386"])
def test_calls_of_another_architecture_end_the_process(video: Path, calls: str) -> None:
    with prepare_attempts() as server:
        assert attempt(server, video, calls) == -signal.SIGSYS


async def test_decoders_are_confined_and_the_prepared_process_is_not(video: Path) -> None:
    """It must fork."""
    async with Decoder.open(video) as decoder:
        await decoder.sample(4)
        (worker,), (server,) = workers(), prepared()
        status, of_server = read_status(worker), read_status(server)
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapPrm"], 16)) == ("1", "2", 0)
    assert (of_server["NoNewPrivs"], of_server["Seccomp"]) == ("0", "0")


def read_status(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@needs_root
async def test_what_another_user_owns_is_read(video: Path) -> None:
    """A server of root loses its right to read it, except where it needs it."""
    os.chown(video, 1234, 1234)
    async with Decoder.open(video) as decoder:
        await decoder.verify()
        (worker,) = workers()
        assert int(read_status(worker)["CapEff"], 16) == CAP_DAC_READ_SEARCH
    answers = run_attempt(video, "files")
    assert set(answers.values()) <= DENIED


@needs_root
def test_only_what_reads_the_files_of_others_is_kept(tmp_path: Path) -> None:
    """A server of root may run from a folder that only another user can read."""
    script = """
import sys
from pathlib import Path
from composition.media.confinement.privileges import drop_capabilities
drop_capabilities(sys.argv[1:])
print(int(dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())["CapEff"], 16))
"""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        path.touch(0o600)
    os.chown(theirs, 1234, 1234)
    for paths, kept in (((ours, tmp_path / "missing"), 0), ((ours, theirs), CAP_DAC_READ_SEARCH)):
        command = [sys.executable, "-c", script, *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert int(done.stdout) == kept


async def test_links_in_a_folder_lead_to_their_files_only(tmp_path: Path) -> None:
    others = albums.folder(tmp_path / "others", {"1.png": albums.numbered(1), "2.png": albums.numbered(2)})
    folder = albums.folder(tmp_path / "folder", {"0.png": albums.numbered(0)})
    (folder / "9.png").symlink_to(others / "1.png")
    (tmp_path / "other").write_bytes(b"of another person")
    assert (await probe_media(folder)).frames == 2
    answers = run_attempt(folder, "files")
    assert answers[f"read {tmp_path / 'other'}"] in DENIED
    assert answers["read /etc/passwd"] in DENIED


def lacking(*calls: int) -> tuple[str, ...]:
    """Return a command that runs another one without some system calls, as an older kernel or a container does."""
    return sys.executable, str(Path(__file__).with_name("lacking.py")), ",".join(map(str, calls))


LANDLOCK = (444, 445, 446)
SECCOMP = (seccomp.MACHINES[MACHINE][2],)
REPORT = """
import json, logging
from composition.media.confinement.status import read_confinement, report_confinement
from services.errors import ConfigError
class Lines(logging.Handler):
    def emit(self, record):
        print(json.dumps([record.levelname, record.getMessage(), record.__dict__.get("missing")]))
logging.getLogger().addHandler(Lines())
for _ in range(2):
    report_confinement("available")
try:
    report_confinement("required")
except ConfigError as error:
    print(json.dumps(error.message))
"""


@needs_root
def test_what_is_missing_is_logged_once_and_refused_if_required() -> None:
    done = subprocess.run(
        [*lacking(*LANDLOCK, *SECCOMP), sys.executable, "-c", REPORT],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    (level, message, missing), refusal = map(json.loads, done.stdout.splitlines())
    assert (level, message, len(missing)) == ("WARNING", "decoders are not fully confined", 2)
    assert missing[0] == "no Landlock: decoders can read files that user 65534 can read"
    assert refusal.startswith("media.confinement: is `required`, but this machine has no Landlock: ")


@needs_root
@pytest.mark.parametrize(("lacked", "uid"), [(LANDLOCK, 65534), (SECCOMP, 0), ((*LANDLOCK, *SECCOMP), 65534)])
def test_without_a_layer_the_others_hold(video: Path, lacked: tuple[int, ...], uid: int) -> None:
    """Without Landlock, another user decodes a copy of the file, if the server is root's."""
    with prepare_attempts(*lacking(*lacked)) as server:
        answer = attempt(server, video, "media")
        assert isinstance(answer, dict)
        assert (answer["threads"], answer["facts"]["frames"], answer["uid"]) == (True, 40, uid)
        files, sockets = attempt(server, video, "files"), attempt(server, video, "sockets")
        assert isinstance(files, dict)
        assert isinstance(sockets, dict)
        for name in (
            f"read {video.with_name('other')}",
            f"read /proc/{os.getpid()}/environ",
            "create a file",
            "remove",
        ):
            assert files[name] != "done"
        if lacked == LANDLOCK:
            assert set(sockets.values()) <= DENIED


@needs_root
def test_a_decoder_that_has_become_another_user_still_ends_with_its_parent(video: Path) -> None:
    """It may be suspended, and then ends by nothing else. Without a filter it can ask what would end it."""
    with prepare_attempts(*lacking(*LANDLOCK, *SECCOMP)) as server:
        assert attempt(server, video, "parent") == {"death signal": signal.SIGKILL}


@pytest.mark.parametrize(
    ("table", "has_nobody"),
    [("0 0 4294967295\n", True), ("0 1000 1\n", False), ("0 1000 1\n1 100000 65536\n", True)],
)
def test_a_container_may_lack_the_other_user(table: str, has_nobody: bool) -> None:
    assert maps_nobody(table) is has_nobody


@needs_root
def test_a_server_of_root_without_capabilities_decodes_as_itself(video: Path) -> None:
    """As in a container from which all capabilities were dropped, on a kernel without Landlock."""
    script = """
import asyncio, sys
from pathlib import Path
from composition.media.confinement.privileges import drop_capabilities
from composition.media.confinement.status import read_confinement
from composition.media.decode import probe_media
drop_capabilities([])
print(read_confinement().user, asyncio.run(probe_media(Path(sys.argv[1]))).frames)
"""
    command = [*lacking(*LANDLOCK), sys.executable, "-c", script, str(video)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "None 40\n"


def test_a_decoder_refuses_if_more_is_required_than_the_machine_has(video: Path) -> None:
    script = """
import asyncio, json, sys
from pathlib import Path
from composition.media.decode import probe_media
from composition.media.limits import MediaLimits
from services.errors import ReelError
try:
    asyncio.run(probe_media(Path(sys.argv[1]), MediaLimits(confinement="required")))
except ReelError as error:
    print(error.code, error.message)
"""
    done = subprocess.run(
        [*lacking(*SECCOMP), sys.executable, "-c", script, str(video)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.startswith("invalid_config media.confinement: is `required`, but this machine has no seccomp: ")


def test_no_deployment_that_decodes_starts_without_what_is_required(tmp_path: Path) -> None:
    script = """
import sys
from composition.app import Front, Graphs, Jobs
from composition.configuration.settings import FrontSettings, GraphsSettings, JobsSettings
from services.errors import ConfigError
state = {"home": sys.argv[1], "media": {"confinement": "required"}}
settings = (FrontSettings(**state), JobsSettings(**state), GraphsSettings(**state, graphs={"single": {}}))
for deployment, args in zip((Front, Jobs, Graphs), settings, strict=True):
    try:
        deployment(args)
    except ConfigError as error:
        print(error.param)
"""
    done = subprocess.run(
        [*lacking(*LANDLOCK), sys.executable, "-c", script, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["media.confinement"] * 3
    assert not (tmp_path / "home").exists()


def test_this_machine_s_report(caplog: pytest.LogCaptureFixture) -> None:
    report_confinement.cache_clear()
    with caplog.at_level(logging.INFO):
        report_confinement("available")
        report_confinement("available")
    (record,) = caplog.records
    assert record.__dict__["landlock"] == read_confinement().landlock
    assert bool(record.__dict__.get("missing")) == bool(read_confinement().missing)


def run_filter(machine: str, number: int, *arguments: int) -> int:
    """Return what the filter of process 7 does with a system call."""
    data = struct.pack("<IIQ6Q", number, seccomp.MACHINES[machine][1], 0, *(*arguments, *[0] * 6)[:6])
    program, at, word = seccomp.write_filter(machine, 7), 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case seccomp.LOAD:
                (word,) = struct.unpack_from("<I", data, operand)
            case seccomp.AND:
                word &= operand
            case seccomp.RETURN:
                return operand
            case _:
                tests = {0x15: word == operand, 0x35: word >= operand, 0x45: bool(word & operand)}
                at += if_true if tests[code] else if_false


Call = tuple[int, ...]
"""Number of a system call, and its arguments."""
CALLS: dict[str, tuple[tuple[Call, ...], tuple[Call, ...]]] = {
    "x86_64": (
        ((0,), (56, 0x3D0F00), (257, 0, 0, 0x80000), (234, 7), (302, 0), (157, 15)),
        ((41,), (42,), (57,), (59,), (56, 0x1200011), (257, 0, 0, 0x241), (234, 8), (302, 8), (157, 4), (165,)),
    ),
    "aarch64": (
        ((63,), (220, 0x3D0F00), (56, 0, 0, 0x80000), (131, 7), (261, 0), (167, 15)),
        ((198,), (203,), (221,), (281,), (220, 0x1200011), (56, 0, 0, 0x241), (131, 8), (261, 8), (167, 4), (40,)),
    ),
}
"""Machine → calls that are allowed: read, a thread, open to read, tgkill, prlimit64, prctl. Then calls that are denied:
sockets, programs, processes, open to write, other processes, other options of prctl, mount."""


@pytest.mark.parametrize("machine", CALLS)
def test_the_filter_of_each_machine(machine: str) -> None:
    allowed, denied = CALLS[machine]
    assert {run_filter(machine, *call) for call in allowed} == {seccomp.ALLOW}
    assert {run_filter(machine, *call) for call in denied} == {seccomp.ERRNO | errno.EPERM}
    assert {run_filter(machine, number) for number in (425, 435, 440)} == {seccomp.ERRNO | errno.ENOSYS}
    assert run_filter("x86_64", 0x40000000 | 39) == seccomp.KILL_PROCESS


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_no_number_occurs_twice(machine: str) -> None:
    column = seccomp.MACHINES[machine][0]
    numbers = [each[column] for each in NUMBERS.values() if each[column] is not None]
    assert len(numbers) == len(set(numbers))
    assert {"open", "stat", "lstat", "access", "readlink", "arch_prctl", "pause", "poll", "select", "time"} == {
        name for name, each in NUMBERS.items() if each[1] is None
    }
