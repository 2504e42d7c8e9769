"""An agent's rounding residual advances only when a quorum of validators confirmed a sum with its update in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from msgspec.structs import replace

from edge_agent.learning.participant import Participant, Pending
from gemel.adapters.clock import SystemClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.exchange import admission
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers, describe
from gemel.wire import merkle
from gemel.wire.attestations import Confirmation, SumAttestation, attest
from gemel.wire.envelope import Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import Commitment, ConfirmedSum, Entry, Receipt, encode
from gemel.wire.types import Digest
from tests.support.evidence import evidence_of
from tests.support.parties import AGENTS, COORDINATOR, TRUST, VALIDATORS, identity

ROUND, EPOCH = 4, TRUST.electorate.epoch
BEFORE, AFTER = np.full(5, 0.25, np.float32), np.full(5, 0.5, np.float32)
WRAPPED = b"a wrapped frame"


class NoBus:
    """An agent that says and hears nothing here."""


@dataclass
class Agent:
    """One agent with an update whose fate is open."""

    participant: Participant
    folder: Path
    entry: Entry  # of its update, as the coordinator lists it
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def residual(self) -> np.ndarray:
        kept = self.participant._read_residual()
        assert kept is not None
        return kept

    async def hear(self, receipt: Receipt) -> None:
        coordinator = Post(NoBus(), TRUST, COORDINATOR, SystemClock())  # type: ignore[arg-type]  # it only signs
        await self.participant._on_receipt(coordinator.sign(Kind.RECEIPT, encode(receipt), round_=ROUND))


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    """It committed to an update in this round; what an earlier one left over is kept."""
    np.save(tmp_path / "residual-kept.npy", BEFORE)
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        post = Post(NoBus(), TRUST, AGENTS[0], SystemClock())  # type: ignore[arg-type]  # it only signs
        noted: dict[str, Any] = {}
        participant = Participant(
            post=post,
            transfers=Transfers(post, tmp_path / "transfers"),
            mailbox=None,  # type: ignore[arg-type]  # the rest is for rounds that are still open
            records=records,
            examples=None,  # type: ignore[arg-type]
            model_in_use=None,  # type: ignore[arg-type]
            workers=None,  # type: ignore[arg-type]
            task_path="",
            state_dir=tmp_path,
            note=noted.update,
            evidence=await evidence_of(post, records, tmp_path),
            encrypted=None,  # type: ignore[arg-type]
        )
        update = post.sign(Kind.UPDATE, b"sealed", round_=ROUND, weight=60)
        commitment = Commitment(update.header.pack(), describe(WRAPPED))
        await participant._remember(Pending(ROUND, commitment.pack()), WRAPPED, AFTER)
        entry = Entry(AGENTS[0].address, update.header.body_digest, 60, describe(WRAPPED))
        yield Agent(participant, tmp_path, entry, noted)


def others(count: int = 4) -> list[Entry]:
    return [Entry(identity(100 + n).address, f"{n:064x}", 10, describe(bytes([n]))) for n in range(count)]


def confirmed(entries: list[Entry], signers: tuple[Identity, ...] = VALIDATORS, round_: int = ROUND) -> ConfirmedSum:
    """The sum of these entries, as these signers attest it."""
    root, weight = admission.root_of(entries), admission.weight_of(entries)
    attested = SumAttestation(TRUST.task, round_, root, "ab" * 32, 3, weight)
    words = (Confirmation(v.address, attest(attested, TRUST.domain, v).hex()) for v in signers)
    return ConfirmedSum(root, "ab" * 32, 3, weight, tuple(words))


def included(entry: Entry, entries: list[Entry]) -> Receipt:
    """The coordinator's receipt with the way from `entry` to the root over `entries`."""
    path = merkle.proof([admission.leaf_of(each) for each in entries], admission.leaf_of(entry))
    proof = tuple(sibling.hex() for sibling in path)
    return Receipt("included", transfer=entry.transfer.digest, level=entry.level, proof=proof)


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("model_comes_first", [False, True])
async def test_proven_update_advances_the_residual_whichever_comes_first(
    agent: Agent, level: int, model_comes_first: bool
) -> None:
    own = replace(agent.entry, level=level)
    entries = [own, *others()]
    if model_comes_first:
        await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
        await agent.hear(included(own, entries))
    else:
        await agent.hear(included(own, entries))
        assert np.array_equal(agent.residual, BEFORE)  # a proof alone moves nothing: the model may be rejected
        await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, AFTER)
    assert not (agent.folder / "frame-pending").exists()


async def test_agent_that_was_listed_but_not_included_keeps_its_residual(agent: Agent) -> None:
    """The coordinator says that the frame was accepted, and leaves it out of the sum that validators confirm."""
    await agent.hear(Receipt("accepted", transfer=agent.entry.transfer.digest))
    await agent.participant.approved(ROUND, EPOCH, confirmed(others()))
    assert np.array_equal(agent.residual, BEFORE)


async def test_coordinators_word_for_an_update_that_is_not_under_the_root_moves_nothing(agent: Agent) -> None:
    with_us = [agent.entry, *others()]
    for receipt in (
        included(agent.entry, with_us),  # a proof to another root than the confirmed one
        Receipt("included", transfer=agent.entry.transfer.digest, level=1),
        Receipt("included", transfer=agent.entry.transfer.digest, level=1, proof=("00" * 32,)),
    ):
        await agent.hear(receipt)
        await agent.participant.approved(ROUND, EPOCH, confirmed(others()))
        assert np.array_equal(agent.residual, BEFORE)
    assert "does not lead" in agent.noted["participation"]


async def test_proof_at_another_level_than_that_of_the_sum_moves_nothing(agent: Agent) -> None:
    own = replace(agent.entry, level=2)
    entries = [own, *others()]
    await agent.hear(replace(included(own, entries), level=3))
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, BEFORE)


@pytest.mark.parametrize("signers", [(), VALIDATORS[:1], (VALIDATORS[0],) * 3, (AGENTS[0], AGENTS[1], COORDINATOR)])
async def test_sum_that_no_quorum_of_pinned_validators_confirmed_moves_nothing(
    agent: Agent, signers: tuple[Identity, ...]
) -> None:
    entries = [agent.entry, *others()]
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries, signers))
    assert np.array_equal(agent.residual, BEFORE)


async def test_confirmation_of_another_sum_or_round_moves_nothing(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    await agent.hear(included(agent.entry, entries))
    good = confirmed(entries)
    changes: list[dict[str, Any]] = [{"sum": "cd" * 32}, {"owners": 4}, {"weight": 1}]
    for false in (*(replace(good, **change) for change in changes), confirmed(entries, round_=ROUND + 1)):
        await agent.participant.approved(ROUND, EPOCH, false)
        assert np.array_equal(agent.residual, BEFORE)


async def test_model_of_another_round_or_of_no_sum_moves_nothing(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND - 1, EPOCH, confirmed(entries))
    await agent.participant.approved(ROUND, EPOCH, None)
    assert np.array_equal(agent.residual, BEFORE)


async def test_receipt_for_another_transfer_moves_nothing(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    other: Digest = "ef" * 32
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    await agent.hear(replace(included(agent.entry, entries), transfer=other))
    assert np.array_equal(agent.residual, BEFORE)


async def test_refused_frame_leaves_the_residual_whatever_is_said_later(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    await agent.hear(Receipt("refused", "no_weight", transfer=agent.entry.transfer.digest))
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, BEFORE)


async def test_messages_that_come_twice_or_after_a_crash_change_nothing_more(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    (agent.folder / "residual-pending.npy").rename(agent.folder / "residual-kept.npy")  # and then the power went
    for _ in range(2):
        await agent.hear(included(agent.entry, entries))
        await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, AFTER)


# --- the model is given up after all: a rejection that came late ---------------------------------------


async def settled(agent: Agent) -> None:
    """The update counted: its round's model was installed."""
    entries = [agent.entry, *others()]
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, AFTER)


async def test_rollback_restores_the_residual_from_before_once(agent: Agent) -> None:
    await settled(agent)
    for _ in range(2):  # the message comes again after a crash
        await agent.participant.rolled_back(ROUND)
        assert np.array_equal(agent.residual, BEFORE)


async def test_rollback_of_an_agents_first_update_leaves_no_residual(agent: Agent) -> None:
    (agent.folder / "residual-kept.npy").unlink()
    await settled(agent)
    await agent.participant.rolled_back(ROUND)
    assert agent.participant._read_residual() is None


async def test_rollback_of_another_round_moves_nothing(agent: Agent) -> None:
    await settled(agent)
    await agent.participant.rolled_back(ROUND - 1)
    assert np.array_equal(agent.residual, AFTER)


async def test_rollback_before_the_fate_is_known_forgets_the_update_whatever_is_said_later(agent: Agent) -> None:
    """An agent that was no canary never installed the model: the proof that it is in the sum comes too late."""
    entries = [agent.entry, *others()]
    await agent.participant.rolled_back(ROUND)
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND, EPOCH, confirmed(entries))
    assert np.array_equal(agent.residual, BEFORE)
    assert not (agent.folder / "frame-pending").exists()


async def test_rollback_after_a_crash_between_two_steps_of_settling_restores_the_residual(agent: Agent) -> None:
    await agent.participant.approved(ROUND, EPOCH, confirmed([agent.entry, *others()]))
    agent.participant._advance_residual()  # and then the power went
    await agent.participant.rolled_back(ROUND)
    assert np.array_equal(agent.residual, BEFORE)


async def test_rollback_after_a_crash_between_its_own_steps_restores_the_residual(agent: Agent) -> None:
    await settled(agent)
    agent.participant._restore_residual()  # and then the power went
    await agent.participant.rolled_back(ROUND)
    assert np.array_equal(agent.residual, BEFORE)


async def test_sum_of_an_epoch_whose_electorate_is_not_known_moves_nothing(agent: Agent) -> None:
    entries = [agent.entry, *others()]
    await agent.hear(included(agent.entry, entries))
    await agent.participant.approved(ROUND, EPOCH + 1, confirmed(entries))
    assert np.array_equal(agent.residual, BEFORE)
    assert "unknown_epoch" in agent.noted["participation"]
