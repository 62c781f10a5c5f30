"""What every test can count on."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> Iterator[None]:
    """Let SIGINT interrupt whatever a test starts.

    A shell starts its background jobs with SIGINT ignored, and what is ignored is inherited: a program of a test would
    then rightly pass over the interrupt that the test sends it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
