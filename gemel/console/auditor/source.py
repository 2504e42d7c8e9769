"""What a report is made of: a chain export, replayed, with or without the fleet's directory around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gemel.console.auditor.book import Book
from gemel.console.auditor.chain import replay_chain
from gemel.console.auditor.ledger import Ledger, TaskLine
from gemel.console.fleet_files import EXPORT_FILE, TRUST_FILE, read, read_trust
from gemel.errors import ConfigError, Malformed
from gemel.wire.eip712 import task_id


@dataclass(frozen=True, slots=True)
class Source:
    """A replayed export."""

    ledger: Ledger
    task: TaskLine
    directory: Path | None  # what else is kept; None: the export alone
    findings: int  # in the export; what a report says then stands on what is left


def open_source(path: Path, task: str | None = None) -> Source:
    """`path` is a kept fleet's directory, or an export; without `task` it is the pinned one, or the only one.

    Raises ConfigError: what cannot be read, no such task, or several.
    """
    directory = path if path.is_dir() else None
    export = path / EXPORT_FILE if directory else path
    book = Book()
    try:
        ledger = replay_chain(read(export), book)
    except Malformed as error:
        raise ConfigError(str(export), error.what, error.detail) from error
    if task is None and directory and (directory / TRUST_FILE).exists():
        task = read_trust(directory).task
    return Source(ledger, _task(ledger, task, export), directory, len(book.findings))


def one_of(start: str, known: Iterable[str], what: str) -> str | None:
    """Which of them begins so; None where none does. Raises ConfigError where several do."""
    found = sorted({each for each in known if each.startswith(start.lower())})
    if len(found) > 1:
        raise ConfigError(what, start, f"more digits: {len(found)} begin with these, such as {found[0]}")
    return found[0] if found else None


def _task(ledger: Ledger, name: str | None, export: Path) -> TaskLine:
    names = ", ".join(sorted(line.name for line in ledger.tasks.values())) or "none"
    found = [line for line in ledger.tasks.values() if name is None or line.id == task_id(name)]
    if len(found) != 1:
        raise ConfigError(str(export), name or "task", f"a task of this chain, by --task: {names}")
    return found[0]
