"""Memory used to parse hostile JSON and form bodies, measured by Python and by the system."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from services.allowance import LEAST_BYTES, MEMORY_RATIO
from services.errors import LimitExceeded, PayloadTooLarge
from tests.composition.body_memory import CHUNK, hostile_forms, reading
from tests.memory import trace_memory

ROOT = Path(__file__).parents[3]
PAGES = 1 << 18
"""Bytes by which a process grows for other reasons: stacks, and newly used pages of libraries."""
FORMS = hostile_forms(LEAST_BYTES)


@pytest.mark.parametrize("shape", FORMS)
async def test_no_form_takes_more_memory_than_four_times_the_limit(shape: str) -> None:
    body, content_type = FORMS[shape]
    with trace_memory() as memory, suppress(PayloadTooLarge, LimitExceeded):
        async with reading(body, content_type, LEAST_BYTES):
            pass
    assert memory.peak <= MEMORY_RATIO * LEAST_BYTES + CHUNK


def test_no_process_grows_by_more_than_four_times_the_limit() -> None:
    """Each body is parsed in its own process, with a limit of 1 MiB."""
    command = [sys.executable, "-m", "tests.composition.body_memory"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in told.splitlines()]
    assert len(lines) > len(FORMS)
    assert [line for line in lines if line[3] > MEMORY_RATIO * 4 * LEAST_BYTES + PAGES] == []
    taken = [shape for shape, _, taken, _ in lines if taken]
    assert len(taken) > len(lines) / 2  # otherwise the test measured nothing
