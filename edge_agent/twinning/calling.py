"""Calls maintenance: an alert that is grave enough is signed with the device key and said to the chain listener.

The alert's desk keeps the event until both are said (edge_agent/twinning/alerting.py), so a call outlives a crash and
a broker that is away; the listener opens one order for an occurrence, however often it is said.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from edge_agent.settings import AgentSettings
from edge_agent.twinning.alerting import Call
from gemel.errors import BusRefused
from gemel.exchange.post import Post
from gemel.host.party import read_identity
from gemel.host.service import Host
from gemel.ports import Bus
from gemel.twin.alerts import AlertEvent, event_to_json
from gemel.twin.state import Severity
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Kind
from gemel.wire.messages import encode
from gemel.wire.types import sha256
from gemel.wire.upkeep import occurrence, sign_alert

_log = structlog.get_logger("gemel.agent.alerts")


@dataclass(frozen=True, slots=True)
class MaintenanceCaller:
    """Signs for the contract that `maintenance` is the domain of; alerts of other severities call nobody."""

    post: Post
    maintenance: Domain
    severities: Collection[Severity]

    async def call(self, event: AlertEvent) -> None:
        """Say it, if it was raised and is grave enough. Raises BusUnavailable."""
        if event.event != "raised" or event.severity not in self.severities:
            return
        alert = sign_alert(
            self.post.identity,
            self.maintenance,
            site=event.site,
            asset=event.asset,
            alert=occurrence(event.id, event.time_ms),
            time_s=event.time_ms // 1000,
            report=sha256(event_to_json(event)),
        )
        topic = self.post.topics.health_alert(self.post.identity.address)
        try:
            await self.post.say(topic, Kind.HEALTH_ALERT, encode(alert))
        except BusRefused as error:
            _log.error("the broker refuses a call for maintenance", alert=event.id, error=str(error))
        else:
            _log.info("maintenance called", asset=event.asset, alert=alert.alert)


def maintenance_call(host: Host[AgentSettings], bus: Bus) -> Call | None:
    """Who is to hear of alerts; None for an agent without a key, or a fleet without orders. Raises ConfigError."""
    settings = host.settings
    if settings.trust_file is None or settings.key_file is None:
        return None
    trust, keys = read_identity(settings.trust_file, settings.key_file)
    if trust.maintenance is None:
        return None
    post = Post(bus, trust, keys.identity, host.clock)
    domain = Domain(trust.chain_id, trust.maintenance)
    return MaintenanceCaller(post, domain, settings.maintenance.severities).call
