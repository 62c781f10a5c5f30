"""Fixtures that are slow to create: uploads, which separate processes decode, and a PostgreSQL server."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import pgserver
import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import Connection, Engine, event

from composition.media.encode import encode_png
from composition.records.store import Store
from tests.composition import albums
from tests.composition import sample_media as media
from tests.composition.ordering import EDGES, Counter
from tests.composition.serving import noise

OPENED: WeakSet[Engine] = WeakSet()
"""Engines that have connected to a database since the last test ended."""


@event.listens_for(Engine, "engine_connect")
def _note_engine(connection: Connection) -> None:
    OPENED.add(connection.engine)


@pytest.fixture(autouse=True)
def close_databases() -> Iterator[None]:
    """Close the files of a test's databases: thousands of tests run in one process, and some files take two each."""
    yield
    for engine in list(OPENED):
        engine.dispose()
    OPENED.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three uploads: a first frame, edges and a clip."""
    folder = tmp_path_factory.mktemp("stocked")
    made = Counter(folder)
    await made.upload(encode_png(noise(0, 64, 48)), "first")
    await made.upload(albums.album(folder / "edges.zip", EDGES).read_bytes(), "edges")
    await made.upload(media.one_frame(folder).read_bytes(), "clip")
    made.store.close()
    return folder


@pytest.fixture
def counter(stocked: Path, tmp_path: Path) -> Counter:
    """An environment for jobs of `ann`, with her uploads."""
    return Counter(Path(shutil.copytree(stocked, tmp_path / "home")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL server. It runs as another user, who cannot read pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(folder)  # pyright: ignore[reportPrivateImportUsage]
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("alter system set fsync = off")  # the data is not needed after the tests
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store, in each kind of database."""
    made = Store(f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else empty_database(request))
    yield made
    made.close()


def empty_database(request: pytest.FixtureRequest) -> str:
    """Create a database for one test on the shared PostgreSQL server, and return its URL."""
    uri: str = request.getfixturevalue("postgres")
    with psycopg.connect(uri, autocommit=True) as connection:
        (number,) = connection.execute("select count(*) from pg_database").fetchone() or (0,)
        connection.execute(f"create database test_{number}")  # pyright: ignore[reportArgumentType, reportCallIssue]
    return uri.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/test_{number}?")
