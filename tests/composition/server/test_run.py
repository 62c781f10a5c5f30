"""The signals that stop a server or make it reload its configuration."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEARS = """
import fcntl, os, signal, sys, termios, time
terminal, nohup = sys.argv[1:]
if terminal != "none":
    fcntl.ioctl(int(terminal), termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup == "nohup" else signal.SIG_DFL)
from composition.server.run import Signals
signals = Signals()
signals.listen()
print("listening", flush=True)
while not (signals.stop.is_set() or signals.reload.is_set()):
    time.sleep(0.01)
print("stop" if signals.stop.is_set() else "reload", flush=True)
"""
"""A process that prints which signal it handled. Its controlling terminal is the given descriptor."""


class Listener:
    """A process that runs HEARS, with or without a controlling terminal."""

    def __init__(self, *, terminal: bool, nohup: bool = False) -> None:
        self._ends = os.openpty() if terminal else ()
        mine = str(self._ends[1]) if self._ends else "none"
        command = [sys.executable, "-c", HEARS, mine, "nohup" if nohup else "plain"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True, pass_fds=self._ends[1:]
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "listening\n"

    def close_terminal(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                os.close(end)

    def heard(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.close_terminal()


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    made: list[Listener] = []
    yield made
    for listener in made:
        listener.end()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_hangup_that_somebody_sends_reads_the_configuration_again(listeners: list[Listener], terminal: bool) -> None:
    listener = Listener(terminal=terminal)
    listeners.append(listener)
    listener.process.send_signal(signal.SIGHUP)
    assert listener.heard() == "reload"


def test_a_server_ends_with_its_terminal(listeners: list[Listener]) -> None:
    listener = Listener(terminal=True)
    listeners.append(listener)
    listener.close_terminal()
    assert listener.heard() == "stop"


def test_one_that_is_to_outlive_its_terminal_goes_on(listeners: list[Listener]) -> None:
    listener = Listener(terminal=True, nohup=True)
    listeners.append(listener)
    listener.close_terminal()
    assert listener.heard() == "reload"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_and_a_request_to_end_stop_it(listeners: list[Listener], number: signal.Signals) -> None:
    listener = Listener(terminal=False)
    listeners.append(listener)
    listener.process.send_signal(number)
    assert listener.heard() == "stop"
