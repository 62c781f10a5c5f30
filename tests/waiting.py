"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(ask: Callable[[], T | None], timeout_s: float = 60.0, what: str = "it", every_s: float = 0.05) -> T:
    """Ask until there is an answer that is true; fail when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")
