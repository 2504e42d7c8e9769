"""An agent's evidence on its own, for tests that need no process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_agent.learning.endpoints import Endpoints
from edge_agent.learning.evidence import Evidence
from edge_agent.learning.model_in_use import ModelInUse
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.ports import Records


async def evidence_of(
    post: Post,
    records: Records,
    folder: Path,
    *,
    electorates: Electorates | None = None,
    model: ModelInUse | None = None,
    rpc_urls: Sequence[str] = (),
) -> Evidence:
    """As the agent wires it, with the model in use in `folder`."""
    trust = post.trust
    return await Evidence.load(
        post,
        electorates or await Electorates.load(records, trust),
        records,
        model or await ModelInUse.load(records, folder / "models"),
        Endpoints(rpc_urls, trust.domain, trust.task, post.clock, interval_s=60.0),
        warning_s=300.0,
    )
