"""How the house opens SQLite: write-ahead log, no implicit transactions, and a schema that may be applied again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


def connect(
    path: Path,
    schema: str,
    *,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    exclusive: bool = False,
    wait_s: float = 10.0,
) -> sqlite3.Connection:
    """Open `path`, whose folder must exist. Raises sqlite3.Error: the caller knows what its file means to whom.

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
        db.executescript(schema)
    except BaseException:
        db.close()
        raise
    return db


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
