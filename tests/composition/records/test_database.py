"""The database: concurrent opening, databases of an older version, and deployed models."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from composition.configuration.snapshot import build_snapshot
from composition.records.store import Store
from composition.records.tables import Deployed, Job, Table
from tests.composition.conftest import empty_database

OPENERS = 8

# The tables of a version without the table `deployed`.
BEFORE = """
CREATE TABLE jobs (
    id VARCHAR NOT NULL PRIMARY KEY, owner VARCHAR NOT NULL, model VARCHAR NOT NULL, params JSON NOT NULL,
    media JSON NOT NULL, created_at FLOAT NOT NULL, status VARCHAR NOT NULL, started_at FLOAT, completed_at FLOAT,
    stage VARCHAR, progress FLOAT NOT NULL, frames_done INTEGER NOT NULL, frames_total INTEGER, width INTEGER,
    height INTEGER, rate VARCHAR, facts JSON NOT NULL, results JSON NOT NULL, degraded VARCHAR, error_code VARCHAR,
    error_message VARCHAR, attempts INTEGER NOT NULL, fence INTEGER NOT NULL, lease_until FLOAT NOT NULL,
    last_event INTEGER NOT NULL, cancel_requested BOOLEAN NOT NULL, deleted BOOLEAN NOT NULL
);
CREATE TABLE api_keys (sha256 VARCHAR NOT NULL PRIMARY KEY, owner VARCHAR NOT NULL, created_at FLOAT NOT NULL);
INSERT INTO jobs VALUES (
    'video_old', 'ann', 'wan-i2v', '{"image": "file_1", "num_frames": 5}', '{"image": "files/1"}', 1.0, 'queued', NULL,
    NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, '{}', '{}', NULL, NULL, NULL, 0, 0, 0, 0, 0, 0
);
"""


def deployed(application: str, *names: str, kind: str = "wan") -> list[Deployed]:
    facts = {"limits": {}, "defaults": {"steps": 3}, "rate": None}
    return [
        Deployed(application=application, name=name, position=position, kind=kind, facts=facts, built_at=1.0)
        for position, name in enumerate(names)
    ]


# Deployed models and graphs.


def listed(store: Store) -> list[tuple[str, str]]:
    return [(row.application, row.name) for row in store.list_deployed()]


def test_an_application_writes_down_what_it_hosts_in_place_of_what_it_did(store: Store) -> None:
    store.replace_deployed("wans", deployed("wans", "wan-b", "wan-a", "wan-c"))
    store.replace_deployed("others", deployed("others", "svd", kind="svd"))
    assert listed(store) == [("others", "svd"), ("wans", "wan-b"), ("wans", "wan-a"), ("wans", "wan-c")]
    store.replace_deployed("wans", deployed("wans", "wan-c", "wan-b"))
    assert listed(store) == [("others", "svd"), ("wans", "wan-c"), ("wans", "wan-b")]
    (row,) = (row for row in store.list_deployed() if row.application == "others")
    assert (row.kind, row.position, row.facts["defaults"], row.built_at) == ("svd", 0, {"steps": 3}, 1.0)
    store.replace_deployed("others", [])
    assert listed(store) == [("wans", "wan-c"), ("wans", "wan-b")]


def test_two_applications_may_have_a_model_of_one_name(store: Store) -> None:
    store.replace_deployed("a", deployed("a", "wan"))
    store.replace_deployed("b", deployed("b", "wan"))
    assert listed(store) == [("a", "wan"), ("b", "wan")]


def test_what_cannot_be_written_leaves_what_was_there(store: Store) -> None:
    store.replace_deployed("a", deployed("a", "wan"))
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        store.replace_deployed("a", deployed("a", "svd", "svd"))
    assert listed(store) == [("a", "wan")]


# Opening.


def open_at_once(url: str) -> list[BaseException]:
    """Open a database from several threads at once; return the errors."""
    wrong: list[BaseException] = []
    ready = threading.Barrier(OPENERS)

    def open_it() -> None:
        ready.wait()
        try:
            Store(url).close()
        except Exception as error:  # noqa: BLE001 - the test examines it
            wrong.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(OPENERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_a_new_file_is_opened_by_all_applications_at_once(tmp_path: Path) -> None:
    for number in range(20):
        assert open_at_once(f"sqlite:///{tmp_path / f'{number}.db'}") == []


def test_a_new_database_is_opened_by_all_applications_at_once(request: pytest.FixtureRequest) -> None:
    for _ in range(3):
        assert open_at_once(empty_database(request)) == []


def test_a_file_of_an_older_version_is_opened_by_all_applications_at_once(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as old:
        old.executescript(BEFORE)
    assert open_at_once(f"sqlite:///{path}") == []


def test_a_file_of_an_older_version_gets_the_tables_and_columns_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as old:
        old.executescript(BEFORE)
    store = Store(f"sqlite:///{path}")
    job = store.get_job("video_old", "ann")
    assert (job.model, job.params) == ("wan-i2v", {"image": "file_1", "num_frames": 5})
    assert (job.parent, job.main) == (None, None)
    assert store.list_deployed() == []
    store.replace_deployed("wans", deployed("wans", "wan-5b"))
    models = build_snapshot(store.list_deployed(), {"wans": "HEALTHY"}).models
    assert list(models) == ["wan-5b"]
    claimed = store.claim_job(60)
    assert claimed
    assert claimed.id == "video_old"
    made = Job(id="video_new", owner="ann", model="v2v", params={}, media={}, created_at=time.time())
    assert store.create_job(made, 9).status == "queued"
    store.close()
    with sqlite3.connect(path) as now:
        tables = {name for (name,) in now.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables >= set(Table.metadata.tables)
    again = Store(f"sqlite:///{path}")
    assert again.get_job("video_new").owner == "ann"
    again.close()
