"""A real coordinator in an open round, and hostile agents with registered keys: what they send is refused, and said.

The tests run in the order of a round. Until the list closes each plays one commitment that must not join it; then
one honest round of three owners is held, in which every device of a fourth, hostile owner reveals something else than
an honest frame, and the tests after that look at what became of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import pytest_asyncio

from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.key_files import Keys
from gemel.ports import RoundState
from gemel.sealing.frames import BODY_HEADER_BYTES
from gemel.wire import boxes, envelope
from gemel.wire.boxes import new_secret
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Envelope, Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Aggregate, Entry, Receipt, Roster, decode
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_DIGEST, sha256
from tests.support.fleet import Fleet, OpenRound, Player, fleet, in_one_task
from tests.support.tiny_task import task

pytestmark = pytest.mark.asyncio(loop_scope="module")

HONEST = ("honest-1", "honest-2", "honest-3")
# Devices of one hostile owner that get onto the list with a commitment that holds, and what becomes of their frames.
HOSTILE = {
    "another-frame": Reason.NO_COMMITMENT,
    "truncated": Reason.WRONG_LENGTH,
    "forged-size": Reason.FORGED_SIZE,
    "raw-floats": Reason.PLAINTEXT,
    "hides-nothing": Reason.PLAINTEXT,
    "above-the-modulus": Reason.MALFORMED,
    "other-context": Reason.DIGEST_MISMATCH,
    "swapped-body": Reason.DIGEST_MISMATCH,
    "longer-than-signed": Reason.WRONG_LENGTH,
    "other-weight": Reason.NO_COMMITMENT,
    "copied-transfer": Reason.UNREGISTERED,
    "copied-digest": Reason.DIGEST_MISMATCH,
    "unwrapped": Reason.MALFORMED,
    "not-for-collectors": Reason.NOT_ADDRESSED,
    "silent": Reason.MISSING,
}
FALLS_SILENT = "falls-silent"  # reveals an honest frame to the coordinator, and then to nobody any more
LISTED = (*HONEST, FALLS_SILENT, *HOSTILE)
UNLISTED = ("mallory", "latecomer")
REVEAL_S = 5


@dataclass(slots=True)
class OpenPlant:
    """A fleet whose first round is open, and its parties that the tests play."""

    fleet: Fleet
    listener: EvmChain
    round: OpenRound
    mallory: Player

    def update(self, by: Player, **changes: object) -> Envelope:
        """A signed update around a body that nobody will get to see."""
        return by.update(self.round, b"sealed", **changes)

    async def counted(self, outcome: str, reason: str) -> float:
        return await self.fleet.metric("coordinator", "gemel_updates_total", outcome=outcome, reason=reason)

    async def refused_messages(self, reason: str) -> float:
        return await self.fleet.metric(
            "coordinator", "gemel_messages_refused_total", kind="commitment", reason=reason
        )

    async def receipt(self, device: str, since: int) -> Receipt:
        topic = self.fleet.topics.receipt(device)
        return decode(Receipt, (await self.fleet.heard(topic, since=since)).body)

    async def frame_receipt(self, device: str) -> Receipt:
        """The receipt for what the device revealed: it names the transfer."""

        def names_one(payload: bytes) -> bool:
            return decode(Receipt, payload[envelope.HEADER_BYTES :]).transfer != NO_DIGEST

        topic = self.fleet.topics.receipt(device)
        return decode(Receipt, (await self.fleet.heard(topic, where=names_one)).body)

    async def expect_refusal(self, commitment: bytes, reason: Reason, *, header_holds: bool = True) -> None:
        """The commitment's sender gets a receipt with this reason, and both counters say so."""
        device = Header.parse(commitment).sender
        updates, messages = await self.counted("refused", reason), await self.refused_messages(reason)
        since = self.fleet.witness.now
        await self.mallory.say_commitment(commitment)
        receipt = await self.receipt(device, since)
        assert (receipt.outcome, receipt.reason) == ("refused", reason), receipt
        assert await self.counted("refused", reason) == updates + 1
        assert await self.refused_messages(reason) == messages + (not header_holds)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenPlant]:
    """Round 1 is open; nobody has committed."""
    folder = tmp_path_factory.mktemp("refused-updates")
    agents = {name: name for name in HONEST} | dict.fromkeys((FALLS_SILENT, *HOSTILE, *UNLISTED), "mallory")
    async with in_one_task(fleet(folder, agents, contributors=len(LISTED))) as founded:
        await founded.start("custodian", "validator-1", "validator-2")
        await founded.start("coordinator", reveal_s=REVEAL_S)
        listener = await founded.chain_of("listener")
        await founded.reached(listener, 0, RoundState.APPROVED)
        await listener.record_deployed(founded.trust.task, 0, agents=1)
        mallory = await founded.play("mallory")
        yield OpenPlant(founded, listener, await founded.invitation(mallory, 1), mallory)


def some_transfer() -> Transfer:
    return Transfer(sha256(b"a frame"), 60_000)


# --- commitments that do not join the list ----------------------------------------------------------


async def test_commitment_signed_by_another_key_is_refused(plant: OpenPlant) -> None:
    victim = await plant.fleet.play("honest-1")
    own = plant.mallory.commitment(plant.round, plant.update(victim), some_transfer())
    header = replace(Header.parse(own), sender=victim.address)
    forged = replace(header, signature=plant.mallory.keys.identity.sign(header.hash))
    await plant.expect_refusal(forged.pack() + own[envelope.HEADER_BYTES :], Reason.BAD_SIGNATURE, header_holds=False)


async def test_commitment_to_an_update_with_a_wrong_signature_is_refused(plant: OpenPlant) -> None:
    update = plant.update(plant.mallory)
    forged = replace(update, header=replace(update.header, weight=99))
    await plant.expect_refusal(plant.mallory.commitment(plant.round, forged, some_transfer()), Reason.BAD_SIGNATURE)


async def test_commitment_to_another_devices_update_is_refused(plant: OpenPlant) -> None:
    victim = await plant.fleet.play("honest-1")
    copied = plant.mallory.commitment(plant.round, plant.update(victim), some_transfer())
    await plant.expect_refusal(copied, Reason.BAD_SIGNATURE)


async def test_device_that_is_not_registered_is_refused(plant: OpenPlant) -> None:
    stranger = await plant.fleet.play("stranger", Keys(Identity(b"\7" * 32), new_secret()))
    commitment = stranger.commitment(plant.round, plant.update(stranger), some_transfer())
    await plant.expect_refusal(commitment, Reason.UNREGISTERED, header_holds=False)


async def test_party_of_another_role_is_refused(plant: OpenPlant) -> None:
    validator = await plant.fleet.play("listener")
    commitment = validator.commitment(plant.round, plant.update(validator), some_transfer())
    await plant.expect_refusal(commitment, Reason.UNREGISTERED, header_holds=False)


@pytest.mark.parametrize("number", [0, 2, 2**64 - 1])
async def test_commitment_for_another_round_is_refused(plant: OpenPlant, number: int) -> None:
    update = plant.update(plant.mallory, round_=number)
    outer = plant.mallory.commitment(plant.round, update, some_transfer(), round_=number)
    await plant.expect_refusal(outer, Reason.STALE_ROUND)
    inner = plant.mallory.commitment(plant.round, update, some_transfer())
    await plant.expect_refusal(inner, Reason.STALE_ROUND)


async def test_update_from_another_base_is_refused(plant: OpenPlant) -> None:
    update = plant.update(plant.mallory, base=sha256(b"another model"))
    await plant.expect_refusal(plant.mallory.commitment(plant.round, update, some_transfer()), Reason.WRONG_BASE)


async def test_update_under_another_policy_is_refused(plant: OpenPlant) -> None:
    update = plant.update(plant.mallory, policy=sha256(b"another policy"))
    await plant.expect_refusal(plant.mallory.commitment(plant.round, update, some_transfer()), Reason.WRONG_POLICY)


@pytest.mark.parametrize("weight", [0, 101, 2**64 - 1])
async def test_weight_outside_the_policy_is_refused(plant: OpenPlant, weight: int) -> None:
    update = plant.update(plant.mallory, weight=weight)
    await plant.expect_refusal(plant.mallory.commitment(plant.round, update, some_transfer()), Reason.OVERWEIGHT)


async def test_update_that_is_too_large_is_refused_by_its_header(plant: OpenPlant) -> None:
    large = plant.mallory.update(plant.round, bytes(plant.round.policy.max_frame_bytes + 1))
    await plant.expect_refusal(plant.mallory.commitment(plant.round, large, some_transfer()), Reason.TOO_LARGE)


async def test_transfer_that_is_too_large_is_refused(plant: OpenPlant) -> None:
    huge = Transfer(sha256(b"a frame"), 2**63)
    commitment = plant.mallory.commitment(plant.round, plant.update(plant.mallory), huge)
    await plant.expect_refusal(commitment, Reason.TOO_LARGE)


@pytest.mark.parametrize("length", [0, 286])
async def test_transfer_that_is_too_short_for_its_frame_is_refused(plant: OpenPlant, length: int) -> None:
    short = Transfer(sha256(b"x"), length)
    commitment = plant.mallory.commitment(plant.round, plant.update(plant.mallory), short)
    await plant.expect_refusal(commitment, Reason.WRONG_LENGTH)


async def test_frame_without_a_commitment_is_refused(plant: OpenPlant) -> None:
    frame = envelope.pack(plant.update(plant.mallory))
    await plant.expect_refusal(frame, Reason.WRONG_KIND, header_holds=False)


async def test_commitment_of_a_wrong_length_is_refused(plant: OpenPlant) -> None:
    commitment = plant.mallory.commitment(plant.round, plant.update(plant.mallory), some_transfer())
    await plant.expect_refusal(commitment + b"\0", Reason.WRONG_LENGTH, header_holds=False)
    await plant.expect_refusal(commitment[:-1], Reason.WRONG_LENGTH, header_holds=False)


async def test_commitment_with_a_short_body_is_refused_before_it_is_parsed(plant: OpenPlant) -> None:
    short = envelope.pack(plant.mallory.post.sign(Kind.COMMITMENT, b"short", round_=plant.round.number))
    await plant.expect_refusal(short, Reason.MALFORMED)


async def test_commitment_whose_body_was_exchanged_is_refused(plant: OpenPlant) -> None:
    commitment = plant.mallory.commitment(plant.round, plant.update(plant.mallory), some_transfer())
    exchanged = commitment[:-1] + bytes([commitment[-1] ^ 1])
    await plant.expect_refusal(exchanged, Reason.DIGEST_MISMATCH, header_holds=False)


async def test_bytes_that_are_no_message_are_counted_and_stop_nothing(plant: OpenPlant) -> None:
    before = await plant.refused_messages(Reason.MALFORMED)
    await plant.mallory.say_commitment(b"")
    await plant.mallory.say_commitment(b"\xff" * envelope.HEADER_BYTES)

    async def both_counted() -> bool:
        return await plant.refused_messages(Reason.MALFORMED) == before + 2

    await plant.fleet.until(both_counted)


# --- one honest round, with fifteen devices that do not keep to it ----------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """What the round with all of them gave."""

    receipts: dict[str, Receipt]  # by device: what became of its frame
    duplicate: Receipt
    late: Receipt
    counted: dict[tuple[str, str], int]  # what the metric gained, by (outcome, reason)
    roster: Roster
    included: frozenset[str]
    requests: frozenset[str]  # devices whose frames the coordinator asked for
    state: RoundState
    first_chunk: int  # message numbers on the bus
    roster_at: int


Reveal = tuple[Envelope, bytes]  # the update that is committed to, and the bytes that its transfer has


def honest_update(plant: OpenPlant, by: Player, seed: int) -> Reveal:
    vector = np.random.default_rng(seed).normal(0, 0.02, task.manifest.size).astype(np.float32)
    update = by.update(plant.round, by.sealed(plant.round, vector))
    return update, by.wrapped(update)


def hostile_update(plant: OpenPlant, by: Player, victim: tuple[Entry, Reveal]) -> Reveal:
    """What the device commits to, and what its transfer holds, by the device's name."""
    honest, wrapped = honest_update(plant, by, 99)
    entry, (_, victims_transfer) = victim
    body, rest = honest.body, honest.body[BODY_HEADER_BYTES:]
    bodies = {  # sealed bodies that are none, each committed to and signed as it should be
        "truncated": body[:-1],
        "forged-size": body[:16] + (2**32 - 1).to_bytes(4, "little") + body[20:],
        "raw-floats": np.full(len(body) // 4, 0.01, np.float32).tobytes(),
        "hides-nothing": body[: -len(rest) // 2] + bytes(len(rest) // 2),
        "above-the-modulus": body[:-7] + b"\xff" * 7,
        "other-context": body[: BODY_HEADER_BYTES - 32] + bytes(32) + rest,
    }
    if by.name in bodies:
        update = by.update(plant.round, bodies[by.name])
        return update, by.wrapped(update)
    copied = with_digest_of(plant, by, entry)
    others = {
        "another-frame": (honest, honest_update(plant, by, 100)[1]),
        "swapped-body": (honest, by.wrapped(Envelope(honest.header, body[:-1] + bytes([body[-1] ^ 1])))),
        "longer-than-signed": (honest, by.wrapped(Envelope(honest.header, body + b"\0"))),
        "other-weight": (honest, by.wrapped(by.update(plant.round, body, weight=21))),
        # the victim's digests under its own name, and even the victim's very bytes
        "copied-transfer": (copied, victims_transfer),
        # without those bytes it can only send others
        "copied-digest": (copied, by.wrapped(Envelope(copied.header, body))),
        "unwrapped": (honest, envelope.pack(honest)),
        "not-for-collectors": (honest, boxes.wrap(envelope.pack(honest), [by.keys.box])),
        "silent": (honest, wrapped),
    }
    return others[by.name]


def with_digest_of(plant: OpenPlant, by: Player, entry: Entry) -> Envelope:
    """An update header of the device's own over the digest of another's sealed body."""
    own = plant.update(by).header
    lying = replace(own, body_digest=entry.digest, body_length=57_412, weight=entry.weight)
    return Envelope(replace(lying, signature=by.keys.identity.sign(lying.hash)), b"")


async def reveal(plant: OpenPlant, by: Player, update: Envelope, wrapped: bytes) -> None:
    if by.name == "silent":
        await by.say_commitment(by.commitment(plant.round, update, some_transfer()))
    else:
        await by.commit(plant.round, update, wrapped)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(plant: OpenPlant) -> Held:
    fleet, round_ = plant.fleet, plant.round
    reasons = {("accepted", "")} | {("refused", str(reason)) for reason in Reason}
    before = {key: await plant.counted(*key) for key in reasons}
    players = {name: await fleet.play(name) for name in LISTED}
    since = fleet.witness.now
    frames = {name: honest_update(plant, players[name], n) for n, name in enumerate(HONEST)}
    entries = {name: await players[name].commit(round_, *frames[name]) for name in HONEST}
    silent = await players[FALLS_SILENT].commit(round_, *honest_update(plant, players[FALLS_SILENT], 98))
    second, _ = honest_update(plant, players["honest-3"], 50)
    await players["honest-3"].say_commitment(players["honest-3"].commitment(round_, second, some_transfer()))
    duplicate = await plant.receipt(players["honest-3"].address, since)
    for name in HOSTILE:
        update, wrapped = hostile_update(plant, players[name], (entries["honest-1"], frames["honest-1"]))
        await reveal(plant, players[name], update, wrapped)
    roster = await fleet.heard(fleet.topics.roster, since=since)
    late = await plant.fleet.play("latecomer")
    await late.say_commitment(late.commitment(round_, plant.update(late), some_transfer()))
    await plant.frame_receipt(players[FALLS_SILENT].address)
    await players[FALLS_SILENT].transfers.withdraw(silent.transfer)
    receipts = {name: await plant.frame_receipt(player.address) for name, player in players.items()}
    aggregate = decode(Aggregate, (await fleet.heard(fleet.topics.aggregate, since=since)).body)
    approved = await fleet.reached(plant.listener, 1, RoundState.APPROVED, RoundState.REJECTED)
    assert approved.state == RoundState.APPROVED
    await plant.listener.record_deployed(fleet.trust.task, 1, agents=3)
    final = await fleet.reached(plant.listener, 1, RoundState.DEPLOYED)
    heard = fleet.witness.messages[since:]
    names = {player.address: name for name, player in players.items()}
    coordinator = fleet.address("coordinator")
    chunks = {fleet.topics.chunk(player.address, "") for player in players.values()}
    return Held(
        receipts=receipts,
        duplicate=duplicate,
        late=await plant.receipt(late.address, since),
        counted={key: int(await plant.counted(*key) - count) for key, count in before.items()},
        roster=decode(Roster, roster.body),
        included=frozenset(names[entry.device] for entry in aggregate.entries),
        requests=frozenset(
            name for address, name in names.items() if fleet.witness.on(fleet.topics.fetch(address, coordinator))
        ),
        state=final.state,
        first_chunk=next(n for n, m in enumerate(heard) if m.topic.rpartition("/")[0] + "/" in chunks),
        roster_at=next(n for n, m in enumerate(heard) if m.topic == fleet.topics.roster),
    )


async def test_honest_round_is_deployed_with_hostile_devices_on_the_list(held: Held) -> None:
    assert held.state == RoundState.DEPLOYED
    assert held.included == {*HONEST, FALLS_SILENT}
    for name in HONEST:
        assert held.receipts[name].outcome == "accepted"


async def test_device_that_falls_silent_before_validators_ask_does_not_stop_the_round(
    plant: OpenPlant, held: Held
) -> None:
    validator, device = plant.fleet.address("validator-1"), plant.fleet.address(FALLS_SILENT)
    assert plant.fleet.witness.on(plant.fleet.topics.fetch(device, validator))
    assert FALLS_SILENT in held.included


@pytest.mark.parametrize(("device", "reason"), HOSTILE.items())
async def test_hostile_frame_is_refused_with_its_reason(held: Held, device: str, reason: Reason) -> None:
    assert (held.receipts[device].outcome, held.receipts[device].reason) == ("refused", reason)
    assert device not in held.included


async def test_second_commitment_of_a_device_is_refused_and_the_first_stands(held: Held) -> None:
    assert (held.duplicate.outcome, held.duplicate.reason) == ("refused", Reason.DUPLICATE)
    assert held.receipts["honest-3"].outcome == "accepted"


async def test_commitment_after_the_list_closed_is_refused(held: Held) -> None:
    assert (held.late.outcome, held.late.reason) == ("refused", Reason.LATE)


async def test_metric_counts_what_the_receipts_say(held: Held) -> None:
    said = Counter((r.outcome, r.reason) for r in (*held.receipts.values(), held.duplicate, held.late))
    assert {key: count for key, count in held.counted.items() if count} == dict(said)


async def test_no_frame_is_handed_out_before_the_list_is_closed(held: Held) -> None:
    assert held.first_chunk > held.roster_at


async def test_device_that_is_not_on_the_list_is_not_asked_for_a_frame(plant: OpenPlant, held: Held) -> None:
    assert held.requests == frozenset(LISTED)
    mallory, coordinator = plant.mallory.address, plant.fleet.address("coordinator")
    assert not plant.fleet.witness.on(plant.fleet.topics.fetch(mallory, coordinator))
    assert mallory not in {entry.device for entry in held.roster.entries}


async def test_commitment_after_the_round_is_refused(plant: OpenPlant, held: Held) -> None:
    latecomer = await plant.fleet.play("latecomer")
    commitment = latecomer.commitment(plant.round, plant.update(latecomer), some_transfer())
    await plant.expect_refusal(commitment, Reason.STALE_ROUND)
