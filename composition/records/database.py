"""Opening the database, SQLite or PostgreSQL, with all tables that it must have."""

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.schema import CreateColumn

from composition.records.tables import Table

BUSY_S = 30
"""Seconds for which SQLite waits for another writer."""
SCHEMA_LOCK = 0x7265656C
"""PostgreSQL's advisory lock of whoever makes tables."""


def open_database(url: str) -> Engine:
    """Open a database; what it lacks of the tables is made, whoever else does so at the same time.

    Args:
        url: SQLAlchemy's, `sqlite:////path/reelgraph.db` or `postgresql+psycopg://…`.
    """
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if url.startswith("sqlite"):
        _tune_sqlite(engine)
    with for_writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
            connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        Table.metadata.create_all(connection)
        _widen(connection)
    return engine


def for_writing(engine: Engine) -> Engine:
    """Return the same engine for transactions that write."""
    return engine.execution_options(writing=True)


def _widen(connection: Connection) -> None:
    """Add the columns that a database of an older version lacks. None of them may be required."""
    for table in Table.metadata.sorted_tables:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {added}"))


def _tune_sqlite(engine: Engine) -> None:
    """Readers beside one writer, every commit on disk, and the write lock taken at the start of a transaction.

    Taking it later, after a read, fails at once with "database is locked" when another process came between.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
        connection.execute("PRAGMA synchronous=FULL")
        _log_ahead(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging, which needs it alone for a moment; SQLite does not wait for that."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
