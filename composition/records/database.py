"""Opening the database, SQLite or PostgreSQL, and creating its tables."""

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.schema import CreateColumn

from composition.records.tables import Table

BUSY_S = 30
"""Seconds that SQLite waits for another writer."""
SCHEMA_LOCK = 0x7265656C
"""Key of the PostgreSQL advisory lock that is held while tables are created."""


def open_database(url: str) -> Engine:
    """Open a database and create missing tables and columns. Safe to call from several processes at once.

    Args:
        url: SQLAlchemy URL, `sqlite:////path/reelgraph.db` or `postgresql+psycopg://…`.
    """
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if url.startswith("sqlite"):
        _configure_sqlite(engine)
    with mark_writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        Table.metadata.create_all(connection)
        _add_missing_columns(connection)
    return engine


def mark_writing(engine: Engine) -> Engine:
    """Return an engine on the same connections whose transactions may write."""
    return engine.execution_options(writing=True)


def _add_missing_columns(connection: Connection) -> None:
    """Add the columns that a database of an older version lacks. New columns must be nullable."""
    for table in Table.metadata.sorted_tables:
        existing = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in existing:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))


def _configure_sqlite(engine: Engine) -> None:
    """Set SQLite to write-ahead logging and full sync, and take the write lock when a writing transaction begins.

    A transaction that reads first and takes the lock later fails at once with "database is locked" if another process
    wrote in between.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
        connection.execute("PRAGMA synchronous=FULL")
        _enable_write_ahead_log(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _enable_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging, and retry until no other connection uses it: SQLite does not wait."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
