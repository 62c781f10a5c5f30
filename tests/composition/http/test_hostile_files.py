"""Each hostile file gets the answer that `docs/hostile-files.md` says, and costs at most its budget."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from composition.media.cost import LIBRARY_BYTES
from tests.composition.http.hostile_table import RECIPES, open_server, read_answers, upload_file
from tests.composition.media.hostile import MIB
from tests.composition.media.own_memory import OWN_MEMORY
from tests.composition.media.test_decode import workers

ROOT = Path(__file__).parents[3]
GROWTH_BYTES = 48 * MIB
"""How far the server may grow during an upload: less than any of the bombs unpacks to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all hostile files. Another process writes them, so that this one does not grow by it."""
    path = tmp_path_factory.mktemp("hostile")
    script = (
        f"from pathlib import Path\nfrom {upload_file.__module__} import write_files\nwrite_files(Path({str(path)!r}))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    return path


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_server(tmp_path) as client:
        yield client


def test_the_page_has_every_file() -> None:
    assert list(read_answers()) == [recipe.kind for recipe in RECIPES.values()]


@pytest.mark.parametrize("name", RECIPES)
async def test_a_hostile_file_costs_at_most_its_budget(http: httpx.AsyncClient, folder: Path, name: str) -> None:
    outcome = await upload_file(http, folder / name)
    assert outcome.answer == read_answers()[RECIPES[name].kind], outcome.message
    assert outcome.answer.split()[1] in RECIPES[name].answers
    assert outcome.peak_bytes <= LIBRARY_BYTES + outcome.reserved_bytes
    assert outcome.cpu_s <= OWN_MEMORY.cpu_s
    assert outcome.growth_bytes <= GROWTH_BYTES
    assert workers() == []
