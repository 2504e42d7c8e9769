"""The chain's file: what py-evm keeps by key, and what JSON-RPC hands out, in one SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import orjson
from eth.db.atomic import AtomicDBWriteBatch
from eth.db.backends.base import BaseAtomicDB

from gemel.errors import ConfigError
from gemel.sqlite import connect, transaction

Document = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state(key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks(number INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS transactions(
    hash TEXT PRIMARY KEY, block INTEGER NOT NULL, document BLOB NOT NULL, receipt BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs(
    block INTEGER NOT NULL, position INTEGER NOT NULL, address TEXT NOT NULL, document BLOB NOT NULL,
    PRIMARY KEY(block, position)) WITHOUT ROWID;
"""


class Store:
    """Owns the file: a second process that opens it is turned away. Used from one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if the file is another process's or no database."""
        try:
            self._db = connect(path, _SCHEMA, exclusive=True, wait_s=1)
        except sqlite3.DatabaseError as error:
            raise ConfigError(str(path), "db", f"a chain of our own that no other process uses ({error})") from error
        self.state = _State(self._db)

    def close(self) -> None:
        """Fold the write-ahead log into the file and let it go."""
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Everything written inside is on disk when this ends, or nothing of it."""
        return transaction(self._db)

    def meta(self, key: str) -> str | None:
        """A fact about the chain as a whole."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """State such a fact, once."""
        self._db.execute("INSERT INTO meta VALUES (?, ?)", (key, value))

    def add_block(self, block: Document) -> None:
        """A block as `eth_getBlockByNumber` shows it, with transaction hashes."""
        row = (int(block["number"], 16), block["hash"], orjson.dumps(block))
        self._db.execute("INSERT INTO blocks VALUES (?, ?, ?)", row)

    def add_transaction(self, transaction: Document, receipt: Document) -> None:
        """A transaction, its receipt and the receipt's logs."""
        number = int(transaction["blockNumber"], 16)
        row = (transaction["hash"], number, orjson.dumps(transaction), orjson.dumps(receipt))
        self._db.execute("INSERT INTO transactions VALUES (?, ?, ?, ?)", row)
        self._db.executemany(
            "INSERT INTO logs VALUES (?, ?, ?, ?)",
            [(number, int(log["logIndex"], 16), log["address"], orjson.dumps(log)) for log in receipt["logs"]],
        )

    def block(self, number: int) -> Document | None:
        """A block by number."""
        return self._document("SELECT document FROM blocks WHERE number = ?", number)

    def block_by_hash(self, block_hash: str) -> Document | None:
        """A block by hash."""
        return self._document("SELECT document FROM blocks WHERE hash = ?", block_hash)

    def transaction_by_hash(self, transaction_hash: str) -> Document | None:
        """A transaction that is in a block."""
        return self._document("SELECT document FROM transactions WHERE hash = ?", transaction_hash)

    def receipt(self, transaction_hash: str) -> Document | None:
        """Its receipt."""
        return self._document("SELECT receipt FROM transactions WHERE hash = ?", transaction_hash)

    def logs(self, first: int, last: int, addresses: Sequence[str], limit: int) -> list[Document]:
        """At most `limit` logs of blocks `first` to `last`, in their order; of these contracts, or of all if none."""
        of_contracts = f" AND address IN ({','.join('?' * len(addresses))})" if addresses else ""
        rows = self._db.execute(
            f"SELECT document FROM logs WHERE block BETWEEN ? AND ?{of_contracts} "  # noqa: S608 - question marks only
            "ORDER BY block, position LIMIT ?",
            (first, last, *addresses, limit),
        )
        return [orjson.loads(row[0]) for row in rows]

    def _document(self, query: str, key: int | str) -> Document | None:
        row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else orjson.loads(row[0])


class _State(BaseAtomicDB):
    """What py-evm reads and writes by key. It takes part in whatever transaction the store has open."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __getitem__(self, key: bytes) -> bytes:
        row = self._db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, bytes(value)))

    def __delitem__(self, key: bytes) -> None:
        self._db.execute("DELETE FROM state WHERE key = ?", (key,))

    def _exists(self, key: bytes) -> bool:
        return self._db.execute("SELECT 1 FROM state WHERE key = ?", (key,)).fetchone() is not None

    def atomic_batch(self) -> AbstractContextManager[Any]:
        """py-evm's own batches; they land in the block's transaction."""
        batch: AbstractContextManager[Any] = AtomicDBWriteBatch._commit_unless_raises(self)  # noqa: SLF001 - its only maker
        return batch
