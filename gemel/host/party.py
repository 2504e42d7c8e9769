"""What every party of a fleet opens at its start: pinned trust, its keys and records, the bus, post and transfers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gemel.adapters import key_files
from gemel.adapters.key_files import Keys
from gemel.adapters.mqtt_bus import MqttBus
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ConfigError, Malformed
from gemel.exchange.electorates import Electorates
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post
from gemel.exchange.transfers import ModelRequest, Transfers
from gemel.host.background import Background
from gemel.host.service import Host
from gemel.host.settings import ServiceSettings
from gemel.learning.fleet_statistics import refusal
from gemel.learning.task import Task
from gemel.ports import Bus, Records, Will
from gemel.sealing.encrypted_training.plan import plan_for
from gemel.wire.messages import Policy, decode
from gemel.wire.trust import Trust, load_trust
from gemel.wire.types import Address


class PartySettings(ServiceSettings):
    """Settings of a service that signs: both files are required."""

    trust_file: Path
    key_file: Path


S = TypeVar("S", bound=PartySettings)
T = TypeVar("T", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class Party:
    """One open party."""

    trust: Trust  # as pinned; `post.trust` follows the elections
    keys: Keys
    records: Records
    bus: Bus
    post: Post
    transfers: Transfers
    mailbox: Mailbox
    electorates: Electorates


@asynccontextmanager
async def open_party(host: Host[S], will: Will | None = None) -> AsyncIterator[Party]:
    """Open everything that needs no chain; raises ConfigError for files that are missing or wrong."""
    settings = host.settings
    trust, keys = read_identity(settings.trust_file, settings.key_file)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with (
        SqliteRecords(settings.state_dir / "records.sqlite") as records,
        MqttBus(settings.bus.settings(keys.identity.address), will) as bus,
    ):
        host.metrics.watch_bus(bus.counts)
        yield await assemble(host, trust, keys, records, bus)


def read_identity(trust_file: Path, key_file: Path) -> tuple[Trust, Keys]:
    """Whom we believe, and who we are. Raises ConfigError."""
    trust = load_trust(read_file(trust_file, "trust_file"), str(trust_file))
    return trust, key_files.load(key_files.find(key_file, os.environ))


async def assemble(host: Host[T], trust: Trust, keys: Keys, records: Records, bus: Bus) -> Party:
    """A party from parts that are open already."""
    electorates = await Electorates.load(records, trust)
    post = Post(
        bus, trust, keys.identity, host.clock, host.metrics.message_refused, in_force=lambda: electorates.trust
    )
    settings = host.settings
    transfers = Transfers(post, settings.state_dir / "transfers", max_spool_bytes=settings.spool_bytes)
    return Party(trust, keys, records, bus, post, transfers, Mailbox(records), electorates)


async def serve_transfers(
    background: Background, party: Party, requesters: Container[Address], on_model: ModelRequest | None = None
) -> None:
    """Answer fetches from now on."""
    await party.transfers.listen(requesters, on_model)
    background.start(party.transfers.serve(), "transfers")


def read_policy(path: Path, task: Task) -> Policy:
    """The pinned policy. Raises ConfigError, also for one that must not open sums of this task."""
    try:
        policy = decode(Policy, read_file(path, "policy_file"))
    except Malformed as error:
        raise ConfigError(str(path), "policy_file", str(error)) from error
    if why := refusal(task, policy):
        raise ConfigError(str(path), "policy_file", why)
    if policy.training.encrypted:
        plan_for(policy, task.manifest, policy.sealing.weight_cap)
    return policy


def read_statistics(path: Path | None) -> bytes | None:
    """The statistics that M0 is normalised by, if settings name any. Raises ConfigError."""
    return None if path is None else read_file(path, "statistics_file")


def read_file(path: Path, key: str) -> bytes:
    """The bytes of a file that settings name. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), key, f"a readable file ({error.strerror})") from error
