"""Custodians of one-time keys whose witness is the chain, and collectors who open the sum with their totals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from custodian.witness import ChainWitness
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import Malformed, Refused
from gemel.exchange.admission import root_of
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.opened_sums import OpenedSums, SealedSum
from gemel.ports import RoundRecord, RoundState
from gemel.sealing.onetime.custodian import KeyCustodian
from gemel.sealing.onetime.letters import KeyTotal
from gemel.sealing.ports import Member
from gemel.wire import boxes
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind, sign
from gemel.wire.messages import Collector, Entry
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_DIGEST
from tests.support.onetime import OneTimeRound
from tests.support.parties import TRUST, identity

CUSTODIANS = tuple(identity(number) for number in (31, 32, 33))
COLLECTOR_SECRET = bytes([9]) * 32
OF_THREE = msgspec.structs.replace(
    TRUST, custodians=tuple(Collector(c.address, boxes.box_key(bytes([40]) * 32)) for c in CUSTODIANS)
)


def confirmed(entries: tuple[Entry, ...], state: RoundState = RoundState.CONFIRMED) -> RoundRecord:
    """The round as the chain has it."""
    digests = dict.fromkeys(
        ("base", "policy", "roster_root", "sum_digest", "opened", "model", "explanation"), NO_DIGEST
    )
    counts = dict.fromkeys(("owners", "weight", "deployment", "accuracy", "baseline", "epoch", "opened_block"), 0)
    return RoundRecord(state=state, updates_root=root_of(entries), **digests, **counts)


class Played:
    """A round of four agents whose letters have come in everywhere."""

    def __init__(self) -> None:
        self.round = OneTimeRound(4)
        sealed = [self.round.seal(agent) for agent in range(4)]
        self.bodies = [each.body for each in sealed]
        self.letters = [self.round.signed(agent, each) for agent, each in enumerate(sealed)]
        self.members = [self.round.member(agent, body) for agent, body in enumerate(self.bodies)]
        self.entries = tuple(Entry(m.agent, m.update, 10, Transfer("ee" * 32, 1000)) for m in self.members)

    def custodian(self, index: int, witness: ChainWitness) -> KeyCustodian:
        """As it starts, from whatever copy of its files: the round's secret, and the letters as they came."""
        custodian = self.round.custodian(index, witness=witness)
        for letters in self.letters:
            custodian.receive(letters[index])
        return custodian

    def confirm(self, witness: ChainWitness, *agents: int, by: RoundRecord | None = None) -> None:
        entries = tuple(self.entries[agent] for agent in agents)
        witness.confirm(self.round.facts.digest, by or confirmed(entries), entries)

    def list_of(self, *agents: int) -> list[Member]:
        return [self.members[agent] for agent in agents]


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


def test_custodian_gives_out_nothing_before_the_chain_confirms_a_list(played: Played) -> None:
    with pytest.raises(Refused) as refusal:
        played.custodian(0, ChainWitness()).total(played.list_of(0, 1, 2))
    assert refusal.value.reason == Reason.DUPLICATE


def test_custodian_set_back_to_an_older_copy_gives_out_the_same_total_and_no_other(played: Played) -> None:
    """It has forgotten that it gave one out; the chain has not."""
    record = confirmed(played.entries[:3])
    witness = ChainWitness()
    played.confirm(witness, 0, 1, 2, by=record)
    given = played.custodian(0, witness).total(played.list_of(0, 1, 2))
    restored_witness = ChainWitness()  # nothing of it is on disk
    restored = played.custodian(0, restored_witness)
    for other in ((1, 2, 3), (0, 1, 3), (0, 1, 2, 3)):
        with pytest.raises(Refused) as refusal:
            played.confirm(restored_witness, *other, by=record)  # the coordinator says so, the chain does not
        assert refusal.value.reason == Reason.DIGEST_MISMATCH
        with pytest.raises(Refused):
            restored.total(played.list_of(*other))
    played.confirm(restored_witness, 2, 0, 1, by=record)
    for other in ((1, 2, 3), (0, 1, 2, 3)):
        with pytest.raises(Refused):
            restored.total(played.list_of(*other))
    assert restored.total(played.list_of(0, 1, 2)) == given


def test_control_with_a_chain_that_takes_a_second_root_the_difference_is_a_single_key(played: Played) -> None:
    totals = []
    for agents in ((0, 1, 2), (0, 1, 2, 3)):
        witness = ChainWitness()
        played.confirm(witness, *agents)  # two records of one round: no contract keeps both
        totals.append(KeyTotal.parse(played.custodian(0, witness).total(played.list_of(*agents))))
    alone = played.round.custodian(0).receive(played.letters[3][0])
    for part, values in alone.parts.items():
        assert (totals[1].parts[part] - totals[0].parts[part] == values).all()


@pytest.mark.parametrize("state", [s for s in RoundState if s != RoundState.CONFIRMED])
def test_only_a_confirmed_round_has_a_list(played: Played, state: RoundState) -> None:
    with pytest.raises(Refused) as refusal:
        played.confirm(ChainWitness(), 0, 1, 2, by=confirmed(played.entries[:3], state))
    assert refusal.value.reason == Reason.STALE_ROUND


# --- opening with totals ----------------------------------------------------------------------------


async def at_once(function: Callable[..., bytes], *arguments: Any) -> bytes:
    return function(*arguments)


class Desk:
    """A collector who hears totals."""

    def __init__(self, played: Played, mailbox: Mailbox) -> None:
        self.played, self._mailbox = played, mailbox
        self.sums = OpenedSums(OF_THREE, played.round.policy, mailbox, None, at_once, COLLECTOR_SECRET)  # type: ignore[arg-type]

    async def hear(self, custodian: int, total: bytes) -> None:
        wrapped = boxes.wrap(total, [boxes.box_key(COLLECTOR_SECRET)])
        await self.hear_raw(custodian, wrapped)

    async def hear_raw(self, custodian: int, body: bytes) -> None:
        signer = CUSTODIANS[custodian]
        await self._mailbox.put(sign(signer, TRUST.domain, TRUST.task, Kind.KEY_TOTAL, body, issued_at_ms=1, round=7))

    def total(self, custodian: int) -> bytes:
        witness = ChainWitness()
        self.played.confirm(witness, 0, 1, 2)
        return self.played.custodian(custodian, witness).total(self.played.list_of(0, 1, 2))

    async def open(self) -> bytes:
        round_ = self.played.round
        return await self.sums.open(SealedSum(7, round_.context, round_.sum_of(self.played.bodies[:3]), 3))

    def due(self) -> bytes:
        return self.played.round.opener(self.played.list_of(0, 1, 2)).open(
            self.played.round.sum_of(self.played.bodies[:3]), 3
        )


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    played = Played()
    for letters in played.letters:
        played.round.deliver(letters)
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        yield Desk(played, Mailbox(records))


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
async def test_totals_of_any_two_open_the_sum(desk: Desk, pair: tuple[int, int]) -> None:
    for custodian in pair:
        await desk.hear(custodian, desk.total(custodian))
    assert await desk.open() == desk.due()


@pytest.mark.parametrize("liar", [0, 1, 2])
async def test_one_custodian_that_lies_neither_stops_nor_falsifies_the_opening(desk: Desk, liar: int) -> None:
    total = KeyTotal.parse(desk.total(liar))
    parts = {part: values + (1 if part == min(total.parts) else 0) for part, values in total.parts.items()}
    lie = KeyTotal(total.custodian, 3, total.count, total.context, total.members, parts).pack()
    for custodian in range(3):
        await desk.hear(custodian, lie if custodian == liar else desk.total(custodian))
    assert await desk.open() == desk.due()


@pytest.mark.parametrize("nonsense", [b"", b"GKTO" + b"\0" * 72])
async def test_what_is_no_total_is_passed_over(desk: Desk, nonsense: bytes) -> None:
    await desk.hear(0, nonsense)
    for custodian in (1, 2):
        await desk.hear(custodian, desk.total(custodian))
    assert await desk.open() == desk.due()


async def test_another_custodians_total_is_not_its_own(desk: Desk) -> None:
    await desk.hear(0, desk.total(1))
    await desk.hear_raw(1, b"not wrapped for us")
    await desk.hear(2, desk.total(2))
    with pytest.raises(Malformed, match="no totals open the sum"):
        await desk.open()


async def test_sum_with_a_key_that_does_not_fit_its_body_opens_for_nobody(desk: Desk) -> None:
    for custodian in range(3):
        await desk.hear(custodian, desk.total(custodian))
    desk.played.bodies[0] = desk.played.round.seal(0).body  # under another key than the one in its letters
    with pytest.raises(Malformed, match="a letter did not fit its body"):
        await desk.open()
