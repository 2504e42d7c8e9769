"""Whether the broker lets everybody do what the chain wants, and nothing else.

The listener holds rights over the broker, and could give itself or anybody more. So whoever audits compares both
himself: the chain through a node of his own, the broker by the file of its security plugin, which says the same as
its lists and takes no right to read (there is none to look only).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape

from gemel.adapters.clock import SystemClock
from gemel.adapters.dynamic_security import found, read_security_file
from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.evm_sharing import EvmSharing
from gemel.adapters.evm_suspensions import EvmSuspensions
from gemel.adapters.plant_file import read_plant
from gemel.console.fleet_files import read, read_place, read_trust
from gemel.exchange.wanted_rights import WantedRights
from gemel.wire.entitlements import Difference, Entitlement, differences
from gemel.wire.rights import User
from gemel.wire.types import Millis

ReadBroker = Callable[[], Awaitable[frozenset[Entitlement]]]  # BrokerRights.read, or a file's (`in_file`)


class RightsFinding(msgspec.Struct, frozen=True):
    """Where the broker is not as the chain wants it, for one user; "" is everybody."""

    user: User
    kind: Literal["missing", "surplus", "changed"]
    says: str  # the whole difference in one line


class RefusedGrant(msgspec.Struct, frozen=True):
    """A grant that would be open and opens nothing."""

    owner: str
    consumer: str
    scope: str
    why: str


class BrokerReport(msgspec.Struct, frozen=True):
    """What was compared, and each difference."""

    at_ms: Millis
    users: int  # that the chain and the plant's file name
    refused: tuple[RefusedGrant, ...]
    findings: tuple[RightsFinding, ...]

    @property
    def holds(self) -> bool:
        """Whether the broker is exactly as wanted."""
        return not self.findings


def compare(broker_rights: Set[Entitlement], wanted: Set[Entitlement]) -> tuple[RightsFinding, ...]:
    """Each difference, by user."""
    return tuple(map(_finding, differences(wanted, broker_rights)))


async def audit_broker(directory: Path, plant_file: Path, read_broker: ReadBroker) -> BrokerReport:
    """Compare the broker with what the chain says now.

    `directory` has the fleet's chain.json and trust.json; `plant_file` says who else is at the broker, as the
    listener has it. Raises ConfigError, ChainUnavailable, and what `read_broker` raises.
    """
    trust, plant, clock = read_trust(directory), read_plant(plant_file), SystemClock()
    async with EvmChain(read_place(directory), None) as chain:
        sources = (chain, EvmSharing(chain.calls), EvmSuspensions(chain.calls))
        broker_rights = await read_broker()
        at_ms = clock.now_ms()
        wanted = await WantedRights(*sources, trust, plant, clock).read()
    refused = (RefusedGrant(grant.owner, grant.consumer, grant.scope, str(why)) for grant, why in wanted.refused)
    return BrokerReport(at_ms, len(wanted.rights), tuple(refused), compare(broker_rights, wanted.rights))


def in_file(path: Path, administrator: User) -> ReadBroker:
    """What the plugin's file `dynamic-security.json` says, read when it is asked; `administrator` is the listener."""

    async def read_rights() -> frozenset[Entitlement]:
        return found(read_security_file(read(path), str(path)), administrator)

    return read_rights


def show_broker(report: BrokerReport, console: Console) -> None:
    """A line for each difference, and whether all holds."""
    console.print(f"{report.users} users by the chain and the plant's file")
    for grant in report.refused:
        line = f"opens nothing: {grant.scope} from {grant.owner} to {grant.consumer}: {grant.why}"
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    for finding in report.findings:
        console.print(f"[red]{escape(finding.says)}[/]", soft_wrap=True)
    if report.holds:
        console.print("[green]The broker is as the chain wants it.[/]")
    else:
        console.print(f"[red]{len(report.findings)} users are not as the chain wants them.[/]")


def _finding(difference: Difference) -> RightsFinding:
    return RightsFinding(difference.user, difference.kind, str(difference))
