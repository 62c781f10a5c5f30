"""Waits for events in other threads or processes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(ask: Callable[[], T | None], timeout_s: float = 60.0, what: str = "it", every_s: float = 0.05) -> T:
    """Call `ask` until it returns a true value, and return that.

    Args:
        ask: called every `every_s` seconds.
        timeout_s: time limit in seconds.
        what: what is awaited, for the message.
        every_s: interval in seconds.

    Raises:
        AssertionError: the time limit is exceeded.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")
