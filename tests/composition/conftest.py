"""Uploads are decoded in processes of their own, so those that many tests need are made once."""

import shutil
from pathlib import Path

import pytest
import pytest_asyncio

from composition.encode import png
from tests.composition import albums, media
from tests.composition.ordering import EDGES, Counter
from tests.composition.serving import noise


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first frame, edges and a clip, uploaded."""
    folder = tmp_path_factory.mktemp("stocked")
    made = Counter(folder)
    await made.upload(png(noise(0, 64, 48)), "first")
    await made.upload(albums.album(folder / "edges.zip", EDGES).read_bytes(), "edges")
    await made.upload(media.one_frame(folder).read_bytes(), "clip")
    made.store.close()
    return folder


@pytest.fixture
def counter(stocked: Path, tmp_path: Path) -> Counter:
    """Where `ann` may order, with uploads of her own."""
    return Counter(Path(shutil.copytree(stocked, tmp_path / "home")))
