"""Databases from before: what their tables lack is added when they are opened. Forward only, each step once.

Each store lists its migrations beside its schema, which always says how its tables are now. A database notes how many
of them it has had (SQLite: user_version; PostgreSQL: the table gemel_schema). One that notes nothing is new, or older
than these notes; so every migration also says by which column of which table one sees that it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from gemel.errors import ConfigError


class Migration(NamedTuple):
    """What to do where `table` stands without `column`."""

    table: str
    column: str
    statements: tuple[str, ...]


def due(
    migrations: Sequence[Migration], had: int, columns: Mapping[str, Collection[str]], source: str
) -> list[Migration]:
    """Which of them a database still needs, that has had so many and whose tables have these columns.

    Raises ConfigError naming `source` for a database that has had more than there are.
    """
    if had > len(migrations):
        allowed = f"at most {len(migrations)}, found {had}: a later version of Gemel has used it; go back to that one"
        raise ConfigError(source, "schema version", allowed)
    return [each for each in migrations[had:] if each.table in columns and each.column not in columns[each.table]]
