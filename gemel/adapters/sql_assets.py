"""ports.AssetStore in SQL, for every sql.Database."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_standing import Standing
from gemel.errors import Refused
from gemel.ports import AssetRecord
from gemel.wire.reasons import Reason

SCHEMA = """
CREATE TABLE IF NOT EXISTS assets (
    site TEXT, asset TEXT, revision BIGINT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (site, asset)) {clustered};
"""
_PUT = """
INSERT INTO assets VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (site, asset) DO UPDATE SET revision = excluded.revision, document = excluded.document
"""


class SqlAssets:
    """ports.AssetStore over an open database that holds SCHEMA. Call `load` once before anything else."""

    def __init__(self, database: Database, commits: Commits, max_assets: int) -> None:
        self._database, self._commits, self._max_assets = database, commits, max_assets
        self._assets: Standing[tuple[str, str], AssetRecord] = Standing()

    async def load(self) -> None:
        """Read what stands."""
        rows = await self._database.fetch("SELECT site, asset, revision, document FROM assets")
        self._assets.load(
            {
                (site, asset): AssetRecord(site, asset, revision, msgspec.Raw(document.encode()))
                for site, asset, revision, document in rows
            }
        )

    async def put_asset(self, site: str, asset: str, document: bytes, *, expected: int | None) -> int | None:
        """As ports.AssetStore."""

        def plan(batch: Batch) -> int | None:
            known = self._assets.get((site, asset))
            revision = known.revision if known is not None else 0
            if expected not in (None, revision):
                return None
            if known is None and len(self._assets) >= self._max_assets:
                raise Refused(Reason.TOO_LARGE, f"{len(self._assets)} assets are kept already")
            record = AssetRecord(site, asset, revision + 1, msgspec.Raw(document))
            self._assets.plan(batch, (site, asset), record)
            batch.add(_PUT, site, asset, record.revision, document.decode())
            return record.revision

        return await self._commits.change(plan)

    async def asset(self, site: str, asset: str) -> AssetRecord | None:
        """As ports.AssetStore."""
        return self._assets.committed.get((site, asset))

    async def assets(self) -> Sequence[AssetRecord]:
        """As ports.AssetStore."""
        return [record for _, record in sorted(self._assets.committed.items(), key=lambda item: item[0])]
