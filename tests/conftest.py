"""Fixtures and options of all tests."""

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # the duration of an example depends on the load of the machine
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the fault table."""
    parser.addoption(
        "--fault-table", action="store_true", help="write the results of the fault tests to benchmarks/results"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin that writes the fault table, if it is requested."""
    if config.getoption("--fault-table"):
        from tests.cluster.faults import FaultTable  # imports Ray, which takes seconds

        config.pluginmanager.register(FaultTable())


@pytest.fixture(scope="session", autouse=True)
def heed_interrupts() -> Iterator[None]:
    """Restore the default handling of SIGINT, which tests send to their subprocesses.

    A shell starts background jobs with SIGINT ignored, and subprocesses inherit that, so they would ignore the signal.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
