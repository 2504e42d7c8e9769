"""How the house opens SQLite: write-ahead log, no implicit transactions, a schema that may be applied
again, and what databases from before lack (gemel.migrations)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gemel.migrations import Migration, due


def connect(
    path: Path,
    schema: str,
    *,
    migrations: Sequence[Migration] = (),
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    exclusive: bool = False,
    wait_s: float = 10.0,
) -> sqlite3.Connection:
    """Open `path`, whose folder must exist. Raises sqlite3.Error: the caller knows what its file means to whom.

    Raises ConfigError for a file that a later version of Gemel has used.

    FULL: what is committed survives a power cut. NORMAL: it survives kill -9, and a power cut may take the last
    commits. `exclusive` keeps other processes out; `wait_s` is how long we wait for theirs. The connection may be
    used by any thread, by one at a time.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=wait_s)
    try:
        if exclusive:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        if migrations:
            _migrate(db, migrations, str(path))
        db.executescript(schema)
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, migrations: Sequence[Migration], source: str) -> None:
    with transaction(db):
        ((had,),) = db.execute("PRAGMA user_version")
        columns: dict[str, set[str]] = {}
        for table, column in db.execute(
            "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'"
        ):
            columns.setdefault(table, set()).add(column)
        for migration in due(migrations, had, columns, source):
            for statement in migration.statements:
                db.execute(statement)
        if had != len(migrations):
            db.execute(f"PRAGMA user_version = {len(migrations)}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Everything written inside is committed when this ends, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise
