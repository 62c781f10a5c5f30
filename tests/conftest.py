"""What every test can count on."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option for the tests of faults."""
    parser.addoption(
        "--fault-table", action="store_true", help="write what the tests of faults find to benchmarks/results"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Gather what the tests of faults find, where it is wanted."""
    if config.getoption("--fault-table"):
        from tests.cluster.faults import FaultTable  # which imports Ray, and that takes seconds

        config.pluginmanager.register(FaultTable())


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> Iterator[None]:
    """Let SIGINT interrupt whatever a test starts.

    A shell starts its background jobs with SIGINT ignored, and what is ignored is inherited: a program of a test would
    then rightly pass over the interrupt that the test sends it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
