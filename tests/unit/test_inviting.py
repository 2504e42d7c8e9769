"""What keeps a round from being opened, and a device out of one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator import inviting
from coordinator.driver import Driver
from coordinator.machine import Round, State
from coordinator.office import Office
from gemel.adapters.clock import FakeClock
from gemel.errors import ConfigError, PeerError, Refused
from gemel.exchange.post import Post
from gemel.ports import TaskRecord
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Commitment
from gemel.wire.reasons import Reason
from tests.support.parties import AGENTS, TRUST
from tests.support.plans import POLICY
from tests.support.seats import NoBus

BASE, HELD = "ba" * 32, "cd" * 32


class Chain:
    """Holds the task to a policy, and counts what it is told."""

    def __init__(self, policy: str) -> None:
        self.record = TaskRecord(0, 0, 3, 600_000, 0, 1, BASE, policy)
        self.opened: list[int] = []

    async def task(self, _task: str) -> TaskRecord:
        return self.record

    async def open_round(self, _task: str, round_: int, **_terms: object) -> None:
        self.opened.append(round_)


def office_of(**parts: Any) -> Office:
    return cast("Office", SimpleNamespace(name=TRUST.task, policy=POLICY, **parts))


async def test_round_under_another_policy_than_the_chains_is_never_opened() -> None:
    chain = Chain(HELD)
    with pytest.raises(ConfigError) as refused:
        await inviting._require_policy(office_of(chain=chain))
    text = str(refused.value)
    assert HELD in text
    assert POLICY.digest in text
    assert "\n" not in text
    assert chain.opened == []


async def test_policy_that_the_chain_holds_the_task_to_is_fine() -> None:
    await inviting._require_policy(office_of(chain=Chain(POLICY.digest)))


class Receipts:
    """What each device was told."""

    def __init__(self) -> None:
        self.errors: list[PeerError | None] = []

    async def tell(self, _number: int, _device: str, error: PeerError | None, _frame: Transfer | None = None) -> None:
        self.errors.append(error)


async def commit(suspended: frozenset[str]) -> Refused:
    """What the first agent is told of a commitment that is wrong in another way, too."""
    round_ = Round(number=7, state=State.OPEN, base=BASE, policy=POLICY.digest, suspended=suspended)
    receipts, driver = Receipts(), cast("Driver", SimpleNamespace(round=round_))
    agent = AGENTS[0]
    post = Post(NoBus(), TRUST, agent, FakeClock())  # type: ignore[arg-type]  # it only signs
    update = post.sign(Kind.UPDATE, b"", round_=6, base=BASE, policy=POLICY.digest, weight=10)
    body = Commitment(update.header.pack(), Transfer("ab" * 32, 500)).pack()
    office = office_of(
        receipt=receipts.tell,
        agents={agent.address},
        terms=lambda round_: inviting.Terms(TRUST, round_.number, round_.base, POLICY),
    )
    await inviting.on_commitment(office, driver, post.sign(Kind.COMMITMENT, body, round_=7))
    (error,) = receipts.errors
    assert isinstance(error, Refused)
    return error


async def test_suspended_device_is_told_that_it_is_suspended() -> None:
    assert (await commit(frozenset({AGENTS[0].address}))).reason == Reason.SUSPENDED


async def test_other_devices_are_judged_by_what_they_send() -> None:
    assert (await commit(frozenset({AGENTS[1].address}))).reason == Reason.STALE_ROUND
