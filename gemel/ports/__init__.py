"""The doors to the world: what the services need from a broker, a chain, a store, a disk and a clock.

    clock          time as an argument
    bus            MQTT: messages, handlers, a last will
    broker_rights  who may do what at the broker
    blobs          large bytes by their digest
    records        a service's own small durable state
    twins          the registry's twins, revisions, readings, events and agents
    assets         what was declared about assets
    accesses       the log of reads, and the roots over it
    chain          the contracts: tasks, rounds, votes, parties, events
    upkeep         maintenance orders on chain
    anchors        roots of logs on chain
    sharing        grants of twins, and whose each machine is
    suspensions    who has lost its trust for a while

Each port has one contract suite in tests/contract, which every adapter passes. Import them from here.
"""

from __future__ import annotations

from gemel.ports.accesses import Access, AccessRoot, AccessStore
from gemel.ports.anchors import Anchors
from gemel.ports.assets import AssetRecord, AssetStore
from gemel.ports.blobs import Blobs
from gemel.ports.broker_rights import BrokerRights
from gemel.ports.bus import Bus, BusMessage, Handler, Will
from gemel.ports.chain import (
    BallotRecord,
    Chain,
    ChainEvent,
    ChainHead,
    LineageRecord,
    PartyRecord,
    Role,
    RoundRecord,
    RoundState,
    Sent,
    TaskRecord,
    Verdict,
    VoteRecord,
)
from gemel.ports.clock import Clock
from gemel.ports.records import Records
from gemel.ports.sharing import GrantRecord, Sharing
from gemel.ports.suspensions import Suspensions
from gemel.ports.twins import AgentEntry, Bucket, Change, Sample, TwinEntry, TwinEvent, TwinRevision, TwinStore
from gemel.ports.upkeep import OpenedOrder, OrderRecord, Upkeep

__all__ = [
    "Access",
    "AccessRoot",
    "AccessStore",
    "AgentEntry",
    "Anchors",
    "AssetRecord",
    "AssetStore",
    "BallotRecord",
    "Blobs",
    "BrokerRights",
    "Bucket",
    "Bus",
    "BusMessage",
    "Chain",
    "ChainEvent",
    "ChainHead",
    "Change",
    "Clock",
    "GrantRecord",
    "Handler",
    "LineageRecord",
    "OpenedOrder",
    "OrderRecord",
    "PartyRecord",
    "Records",
    "Role",
    "RoundRecord",
    "RoundState",
    "Sample",
    "Sent",
    "Sharing",
    "Suspensions",
    "TaskRecord",
    "TwinEntry",
    "TwinEvent",
    "TwinRevision",
    "TwinStore",
    "Upkeep",
    "Verdict",
    "VoteRecord",
    "Will",
]
