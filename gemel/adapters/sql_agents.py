"""What agents last said of themselves, in SQL and in memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gemel.adapters.sql import Batch, Commits, Database
from gemel.adapters.sql_numbering import Numbering
from gemel.adapters.sql_standing import Standing
from gemel.ports import AgentEntry

SCHEMA = """
CREATE TABLE IF NOT EXISTS agents (
    site TEXT, name TEXT, availability TEXT, status TEXT, received_ms BIGINT NOT NULL, sequence BIGINT NOT NULL,
    PRIMARY KEY (site, name)) {clustered};
"""
_PUT = """
INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (site, name) DO UPDATE SET
    availability = excluded.availability, status = excluded.status, received_ms = excluded.received_ms,
    sequence = excluded.sequence
"""


class SqlAgents:
    """The agents of SqlTwins: at most `most`."""

    def __init__(self, database: Database, commits: Commits, numbering: Numbering, most: int) -> None:
        self._database, self._commits, self._numbering, self._most = database, commits, numbering, most
        self._standing: Standing[tuple[str, str], AgentEntry] = Standing()

    async def load(self) -> int:
        """Read what stands; the last sequence among it."""
        agents = await self._database.fetch(
            "SELECT site, name, availability, status, received_ms, sequence FROM agents"
        )
        self._standing.load(
            {
                (site, name): AgentEntry(
                    site, name, availability, None if status is None else msgspec.Raw(status.encode()), *more
                )
                for site, name, availability, status, *more in agents
            }
        )
        return max((agent.sequence for agent in self._standing.committed.values()), default=0)

    async def put(
        self,
        site: str,
        name: str,
        *,
        availability: str | None = None,
        status: bytes | None = None,
        received_ms: int,
    ) -> None:
        """As ports.TwinStore.put_agent."""

        def plan(batch: Batch) -> None:
            known = self._standing.get((site, name))
            if known is None:
                self._standing.make_room(self._most)
                known = AgentEntry(site, name, None, None, received_ms)
            said = known.status if status is None else msgspec.Raw(status)
            # With its first status it is known which machine comes or goes with it.
            moved = availability not in (None, known.availability) or (known.status is None and said is not None)
            sequence = self._numbering.next(batch) if moved else known.sequence
            agent = AgentEntry(site, name, availability or known.availability, said, received_ms, sequence)
            self._standing.plan(batch, (site, name), agent)
            text = None if said is None else bytes(said).decode()
            batch.add(_PUT, site, name, agent.availability, text, received_ms, sequence)

        await self._commits.change(plan)

    def all(self) -> Sequence[AgentEntry]:
        """As ports.TwinStore.agents."""
        return [agent for _, agent in sorted(self._standing.committed.items(), key=lambda item: item[0])]

    def since(self, sequence: int) -> list[AgentEntry]:
        """Those that came or went after it."""
        return [agent for agent in self._standing.committed.values() if agent.sequence > sequence]
