"""Who may do what at the broker, derived from the table in gemel/wire/topics.py.

A party's name at the broker is the common name of its TLS certificate: for the parties of a fleet their address
(`use_identity_as_username`), for the rest of the plant a name that the operator chose. Everything that is not
granted here is refused. The broker is a second wall only: signatures, wrapping and the chain are the first
(docs/security.md).

    reads                    agent            coordinator   custodian        validator     listener
    context/+                x                x             (writes), x      x
    invitation, roster       x                (writes)      x                x
    letter/<own>/+           (writes)                       x
    letter-receipt/+/<own>   x                everybody's   (writes)
    commitment/+                              x                              x
    receipt/<own>            x
    aggregate                                 (writes)      x                x
    training-request/<own>/+ (writes)                       x
    training-answer/+/<own>  x                              (writes)
    training/chunk/<own>/+   (writes)                       x
    training/fetch/<own>/+   x                              (writes)
    key-total/+                               x             (writes), x      x
    opened/+                                  x             (writes)         x
    candidate                                 (writes)                       x
    ballot/+                                  x                              (writes), x
    standing/+               x                x             x                (writes), x   x
    electorate/+             x                x             x                x             (writes)
    deployment               x                x             x                x             (writes)
    health-alert/+           (writes)                                                      x
    model                    x                (writes)                       x
    installed/+                               x                                            x
    round-request/+          (writes)         x
    round-answer/<own>       x                (writes)
    fetch/<own>/+            x                x             x                x             x
    chunk/<holder>/+         coordinator's,   everybody's   the              everybody's
                             custodian's                    coordinator's

How far maintenance orders are, the listener tells at every site.

The custodian never reads an agent's chunks but those of training, which hold masked weights and no frame, and agents
never read each other's. The twin registry reads all twins
and agents' words and answers questions about them; a dashboard reads those of the sites it was granted and may ask
about them, a source of readings writes its own topics. An operator sees what a dashboard sees, may ask for
desired values at its sites and hears its own answers; a command to a machine goes from the agent to the source that
stands for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

import msgspec

from gemel.errors import ConfigError
from gemel.wire import topics
from gemel.wire.trust import Trust
from gemel.wire.types import Address

_USER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
User = Annotated[str, msgspec.Meta(pattern=_USER)]  # a name at the broker: its certificate's common name


class BusRole(StrEnum):
    """What a party is at the broker."""

    AGENT = "agent"
    COORDINATOR = "coordinator"
    CUSTODIAN = "custodian"
    VALIDATOR = "validator"
    LISTENER = "listener"
    REGISTRY = "registry"  # the twin registry
    DASHBOARD = "dashboard"
    OPERATOR = "operator"  # whoever may say what a machine shall do
    SOURCE = "source"  # whatever publishes readings: a PLC, a gateway of the plant, the demo's replay


class Party(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One client of the broker. `user` is its certificate's common name."""

    role: BusRole
    user: User
    site: str = ""  # agent: where it stands
    agent: str = ""  # agent: its name in topics
    assets: tuple[str, ...] = ()  # agent: the machines whose twins it keeps
    sites: tuple[str, ...] = ()  # dashboard, operator: the sites whose twins it may see, or set
    readings: tuple[str, ...] = ()  # agent: topic filters that it listens to; source: those it publishes under
    commands: tuple[str, ...] = ()  # agent: topics on which it commands its machines; source: those it obeys


class Right(NamedTuple):
    """A line of an access list."""

    access: Literal["read", "write"]
    topic_filter: str


def user_name(text: str) -> User:
    """`text` if it can be a user's name at the broker. Raises ConfigError."""
    if not re.match(_USER, text):
        allowed = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        raise ConfigError("broker rights", ascii(text[:80]), allowed)
    return text


def fleet_parties(trust: Trust) -> tuple[Party, ...]:
    """The parties that `trust.json` names: coordinator, custodians, listener, validators."""
    return (
        Party(BusRole.COORDINATOR, trust.coordinator.address),
        *(Party(BusRole.CUSTODIAN, custodian.address) for custodian in trust.custodians),
        Party(BusRole.LISTENER, trust.listener),
        *(Party(BusRole.VALIDATOR, validator.address) for validator in trust.validators),
    )


def rights(party: Party, trust: Trust) -> tuple[Right, ...]:
    """Everything that `party` may do, and nothing else. Raises ConfigError for a name that is no topic level."""
    match party.role:
        case BusRole.REGISTRY:
            of_twins = _reads(topics.ALL_TWINS, topics.ALL_BACKFILL, topics.ALL_TWIN_EVENTS, topics.ALL_ORDERS)
            of_agents = _reads(topics.ALL_AVAILABILITY, topics.ALL_AGENT_STATUS)
            answers = _writes(topics.query_response("+", "+"), topics.backfill_answer("+", "+"))
            return of_twins + of_agents + _reads(topics.ALL_QUERIES) + answers
        case BusRole.DASHBOARD:
            return _sees(party)
        case BusRole.SOURCE:
            return _writes(*map(_reading, party.readings)) + _reads(*map(_reading, party.commands))
        case BusRole.OPERATOR:
            sites = tuple(topics.name(site, "site") for site in party.sites)
            answers = _reads(*(topics.desired_answer(site, "+", party.user) for site in sites))
            asks = _writes(*(topics.desired_set(site, "+") for site in sites))
            return _sees(party) + answers + asks
        case BusRole.AGENT:
            return _learning_rights(party, trust) + _plant_rights(party)
        case _:
            return _learning_rights(party, trust)


def acl_text(trust: Trust, plant: Iterable[Party]) -> str:
    """A mosquitto acl_file for the fleet's own parties and those of the plant.

    Only `user` blocks: a `pattern` line would hold for everybody with a certificate, dashboards included.
    Raises ConfigError where a user comes twice.
    """
    parties = (*fleet_parties(trust), *plant)
    blocks = [f"# Rights of fleet {trust.fleet}, task {trust.task}; what is not granted is refused. Generated.\n"]
    seen: set[str] = set()
    for party in parties:
        if party.user in seen:
            raise ConfigError("broker rights", party.user, "each user once, with one role")
        seen.add(party.user)
        lines = "".join(f"topic {access} {topic_filter}\n" for access, topic_filter in rights(party, trust))
        blocks.append(f"# {party.role}{f' {party.agent}' if party.agent else ''}\nuser {party.user}\n{lines}")
    return "\n".join(blocks)


def _learning_rights(party: Party, trust: Trust) -> tuple[Right, ...]:
    of = topics.Learning(trust.fleet, trust.task)
    own: Address = party.user
    anybody = _reads(of.fetch(own), of.standing(), of.electorate()) + _writes(of.fetch("+", own), of.chunk(own, "+"))
    coordinator = of.chunk(trust.coordinator.address, "+")
    custodians = tuple(of.chunk(custodian.address, "+") for custodian in trust.custodians)
    match party.role:
        case BusRole.AGENT:
            reads = _reads(of.context(), of.invitation, of.roster, of.receipt(own), of.deployment, of.model)
            reads += _reads(of.letter_receipt("+", own), of.round_answer(own))
            writes = _writes(of.commitment(own), of.installed(own), of.round_request(own), of.health_alert(own))
            writes += _writes(*(of.letter(custodian.address, own) for custodian in trust.custodians))
            reads += _reads(of.training_answer("+", own), of.training().fetch(own))
            writes += _writes(*(of.training_request(custodian.address, own) for custodian in trust.custodians))
            writes += _writes(of.training().chunk(own, "+"))
            return reads + _reads(coordinator, *custodians) + writes + anybody
        case BusRole.COORDINATOR:
            reads = _reads(of.context(), of.commitment(), of.deployment, of.installed(), of.chunk("+", "+"))
            reads += _reads(of.letter_receipt(), of.key_total(), of.opened(), of.round_request(), of.ballot())
            writes = _writes(of.invitation, of.roster, of.receipt(), of.aggregate, of.candidate, of.model)
            writes += _writes(of.round_answer())
            return reads + writes + anybody
        case BusRole.CUSTODIAN:
            reads = _reads(of.invitation, of.roster, of.aggregate, of.deployment, coordinator)
            reads += _reads(of.context(), of.letter(own), of.key_total())
            reads += _reads(of.training_request(own), of.training().chunk("+", "+"))
            writes = _writes(of.context(own), of.letter_receipt(own), of.key_total(own), of.opened(own))
            writes += _writes(of.training_answer(own), of.training().fetch("+", own))
            return reads + writes + anybody
        case BusRole.VALIDATOR:
            round_ = _reads(of.context(), of.invitation, of.roster, of.commitment(), of.aggregate)
            round_ += _reads(of.key_total(), of.opened(), of.ballot())
            writes = _writes(of.ballot(own), of.standing(own))
            return round_ + _reads(of.candidate, of.deployment, of.model, of.chunk("+", "+")) + writes + anybody
        case BusRole.LISTENER:
            writes = _writes(of.deployment, of.electorate(), topics.ALL_ORDERS)
            return _reads(of.installed(), of.health_alert()) + writes + anybody
    raise ValueError(f"{party.role} takes no part in learning")


def _plant_rights(agent: Party) -> tuple[Right, ...]:
    site, own = topics.name(agent.site, "site"), topics.name(agent.agent, "agent")
    assets = [topics.name(asset, "asset") for asset in agent.assets]
    said = (
        topics.twin_state,
        topics.twin_delta,
        topics.twin_schema,
        topics.twin_event,
        topics.twin_backfill,
        topics.desired_answer,
    )
    writes = _writes(
        *(topic(site, asset) for asset in assets for topic in said),
        topics.agent(site, own, "availability"),
        topics.agent(site, own, "status"),
        *map(_reading, agent.commands),
    )
    told = (topic(site, asset) for asset in assets for topic in (topics.desired_set, topics.backfill_answer))
    return writes + _reads(*told, *map(_reading, agent.readings))


def _sees(party: Party) -> tuple[Right, ...]:
    """What is said about the party's sites, and its own questions to the registry with their answers."""
    sites = [topics.name(site, "site") for site in party.sites]
    words = _reads(*(f for site in sites for f in _words_of(site)))
    answers = _reads(*(topics.query_response(site, party.user) for site in sites))
    return words + answers + _writes(*(topics.query_request(site, party.user) for site in sites))


def _words_of(site: str) -> tuple[str, ...]:
    of_twins = (topics.twin_state, topics.twin_delta, topics.twin_schema, topics.twin_event)
    of_agents = (topics.agent(site, "+", leaf) for leaf in ("availability", "status"))
    return (*(topic(site, "+") for topic in of_twins), *of_agents, topics.maintenance_order(site, "+"))


# The plant's own topics: `#` at the end only and not alone, never inside Gemel's or the broker's.
_READING = re.compile(r"^(?!gemel/|\$|[#+])[^\x00-\x1f#]+(/#)?$")


def _reading(topic_filter: str) -> str:
    if not _READING.fullmatch(topic_filter):
        raise ConfigError(
            "broker rights", repr(topic_filter), "a topic filter of the plant, not beginning with gemel/, $, # or +"
        )
    return topic_filter


def _reads(*filters: str) -> tuple[Right, ...]:
    return tuple(Right("read", f) for f in filters)


def _writes(*filters: str) -> tuple[Right, ...]:
    return tuple(Right("write", f) for f in filters)
