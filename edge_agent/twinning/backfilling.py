"""Sends what waits in the outbox once the link is back, slowly enough that live state is not held up."""

from __future__ import annotations

import structlog

from edge_agent.twinning.outbox import Outbox
from gemel.errors import BusRefused, BusUnavailable
from gemel.ports import Bus, Clock
from gemel.twin import backfill
from gemel.twin.backfill import MAX_REVISIONS, SCHEMA, Backfill
from gemel.wire import topics

LOOK_S = 1.0  # how soon a new link, or a first revision, is noticed
SETTLE_S = 2.0  # after a new link: first the live state
PAUSE_S = 0.1  # between two batches
REFUSED_S = 60.0  # a broker that refuses is asked again so much later
BATCH_BYTES = 128 * 1024

_log = structlog.get_logger("gemel.agent.outbox")


async def send_for_ever(outbox: Outbox, site: str, *, bus: Bus, clock: Clock) -> None:
    """Batch after batch, oldest first; a batch is forgotten when the broker has acknowledged it."""
    linked = False
    while True:
        outbox.attended_s = clock.monotonic_s()
        if not bus.connected:
            linked = False
        elif not linked:
            linked = True
            await clock.sleep(SETTLE_S)
            if outbox.depth:
                _log.info("sending what was kept", revisions=outbox.depth, dropped=outbox.dropped)
            continue
        elif outbox.depth:
            await clock.sleep(await _send(outbox, site, bus))
            continue
        await clock.sleep(LOOK_S)


async def _send(outbox: Outbox, site: str, bus: Bus) -> float:
    """One batch; returns how long to wait then."""
    batch = await outbox.oldest(MAX_REVISIONS, BATCH_BYTES)
    if batch is None:
        return LOOK_S
    document = backfill.to_json(Backfill(SCHEMA, site, batch.asset, outbox.dropped, batch.revisions))
    try:
        await bus.publish(topics.twin_backfill(site, batch.asset), document, content_type="application/json")
    except BusUnavailable as error:
        _log.warning("not sent yet", why=str(error))
        return LOOK_S
    except BusRefused as error:  # a broker with rights from before there was a backfill
        _log.error("the broker refuses the backfill", error=str(error), retry_s=REFUSED_S)
        return REFUSED_S
    await outbox.forget(batch.numbers)
    if not outbox.depth:
        _log.info("everything that was kept is sent")
    return PAUSE_S
