"""What every client of the broker may do, as the broker itself has it."""

from __future__ import annotations

from typing import Protocol

from gemel.wire.entitlements import Difference, Entitlement


class BrokerRights(Protocol):
    """Who may do what at the broker. Both methods may be repeated at any time, by anybody, with the same outcome.

    They raise BusUnavailable where the broker does not answer, or answers nonsense, several times; BusRefused where
    we may not ask.
    """

    async def read(self) -> frozenset[Entitlement]:
        """What everybody may do, as the broker has it."""
        ...

    async def apply(self, wanted: frozenset[Entitlement]) -> tuple[Difference, ...]:
        """Make the broker exactly as wanted and return what was not. Whoever nothing changes for notices nothing.

        It holds for links that stand, and survives a restart. Raises ConfigError, before anything is sent, for names
        and filters that no broker should be told.
        """
        ...
