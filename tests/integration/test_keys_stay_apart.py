"""Who holds which key: the coordinator cannot decrypt, and the custodian opens one confirmed sum of enough owners.

In the second half a real custodian stands against a coordinator and validators played by the test with their real
keys. Each test holds a round of its own on chain, one after the other.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import tenseal

from gemel.adapters.evm_chain import EvmChain
from gemel.errors import ConfigError
from gemel.exchange.admission import root_of
from gemel.exchange.transfers import describe
from gemel.ports import RoundState
from gemel.sealing.opener import Opener, create_key
from gemel.sealing.summer import Summer
from gemel.sealing.work import seal_update
from gemel.wire import boxes, tensors
from gemel.wire.attestations import SumAttestation
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Aggregate, Context, Entry, Opened, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256
from tests.support.chains import REPOSITORY
from tests.support.crew import Member
from tests.support.fleet import WAIT_S, Fleet, Player, fleet, in_one_task, opened
from tests.support.plans import POLICY
from tests.support.tiny_task import task
from tests.support.voters import approve, confirm
from tests.support.witnessed_round import SERVICES, WitnessedRound

# --- the coordinator --------------------------------------------------------------------------------


def test_coordinator_keeps_a_context_without_the_secret_key(witnessed_round: WitnessedRound) -> None:
    context = tenseal.context_from((witnessed_round.round_folder / "context").read_bytes())
    assert context.has_public_key()
    assert not context.is_private()
    assert not context.has_secret_key()
    with pytest.raises(ValueError, match="secret"):
        tenseal.bfv_vector(context, [1, 2, 3]).decrypt()


def test_nothing_that_the_coordinator_keeps_holds_a_secret_key(witnessed_round: WitnessedRound) -> None:
    """Every file of its state is given to TenSEAL; that the search would find a key, a real one shows."""
    files = [path for path in (witnessed_round.folder / "coordinator").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if holds_secret_key(path.read_bytes())]
    key = create_key(POLICY.sealing, task.manifest.size)
    assert holds_secret_key(key.secret)


def holds_secret_key(data: bytes) -> bool:
    """Whether it is a stored round key, or a context that TenSEAL can decrypt with."""
    if data.startswith(b"GKEY"):
        return True
    try:
        return bool(tenseal.context_from(data).has_secret_key())
    except (ValueError, RuntimeError):
        return False


def test_no_key_is_left_when_the_round_is_over(witnessed_round: WitnessedRound) -> None:
    assert list((witnessed_round.folder / "custodian" / "keys").iterdir()) == []


def test_kept_round_has_frames_and_nowhere_the_key_that_opens_them(witnessed_round: WitnessedRound) -> None:
    """Every file of every party, databases and logs too: a key in one of their rows would show its magic."""
    frames = list((witnessed_round.round_folder / "frames").iterdir())
    assert len(frames) == len(witnessed_round.addresses) - len(SERVICES) - 2  # the coordinator and the operator
    files = [path for path in witnessed_round.folder.rglob("*") if path.is_file()]
    assert {"custodian", "coordinator", "validator-1", "gateway-a"} <= {
        path.relative_to(witnessed_round.folder).parts[0] for path in files
    }
    assert not [path for path in files if has_a_secret_key(path.read_bytes())]
    assert has_a_secret_key(b"a row before" + create_key(POLICY.sealing, task.manifest.size).secret)


def has_a_secret_key(data: bytes) -> bool:
    return b"GKEY" in data or holds_secret_key(data)


def test_coordinator_refuses_to_add_under_a_context_with_a_secret_key() -> None:
    key = create_key(POLICY.sealing, task.manifest.size)
    secret_context = key.secret[key.secret.index(key.public_context) + len(key.public_context) :]
    assert tenseal.context_from(secret_context).has_secret_key()
    with pytest.raises(ConfigError, match="only the custodian"):
        Summer(secret_context, POLICY.sealing, task.manifest.size)


@pytest.mark.parametrize("service", ["coordinator", "validator", "edge_agent", "chain_listener", "twin_registry"])
def test_only_the_custodians_process_loads_the_opener(service: str) -> None:
    openers = ("gemel.sealing.opener", "gemel.sealing.encrypted_training.refresher")
    looking = f"import sys, {service}.__main__; print(any(each in sys.modules for each in {openers}))"
    done = subprocess.run([sys.executable, "-c", looking], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# --- the custodian ----------------------------------------------------------------------------------

OWNERS = {"a-1": "a", "a-2": "a", "a-3": "a", "b": "b", "c": "c"}
DISTINCT, ONE_OWNER = ("a-1", "b", "c"), ("a-1", "a-2", "a-3")


@dataclass(slots=True)
class Desk:
    """A real custodian, and everybody else in the hands of the test."""

    fleet: Fleet
    coordinator: Player
    chain: EvmChain  # with the coordinator's key
    number: int = 0

    @property
    def task(self) -> str:
        return self.fleet.trust.task

    async def open_round(self) -> None:
        self.number += 1
        base = (await self.chain.task(self.task)).model
        await self.chain.open_round(self.task, self.number, base=base, policy=self.fleet.plan.policy.digest)

    async def context(self) -> bytes:
        """What the custodian announces for this round: it has the key by then."""

        def of_this_round(payload: bytes) -> bool:
            return int.from_bytes(payload[88:96], "big") == self.number

        topic = self.fleet.topics.context(self.fleet.address("custodian"))
        heard = await self.fleet.heard(topic, where=of_this_round)
        transfer = decode(Context, heard.body).context
        return await self.fleet.wait(
            self.coordinator.transfers.fetch(
                self.fleet.address("custodian"), transfer, max_bytes=1 << 24, deadline_s=WAIT_S
            )
        )

    def updates(self, context: bytes, devices: Sequence[str]) -> tuple[tuple[Entry, ...], bytes]:
        """Entries and sealed sum of these devices' updates."""
        sealing, size = self.fleet.plan.policy.sealing, task.manifest.size
        summer, entries = Summer(context, sealing, size), []
        for n, device in enumerate(devices):
            vector = np.full(size, 0.01 * (n + 1), np.float32)
            body = seal_update(context, sealing, vector, 50, vector * 0).body
            summer.add(body)
            entries.append(Entry(self.fleet.address(device), sha256(body), 50, describe(body)))
        return tuple(sorted(entries, key=lambda entry: entry.device)), summer.sum()

    async def propose(self, entries: Sequence[Entry], sum_digest: str) -> SumAttestation:
        """List and sum on chain, with three owners claimed."""
        root, weight = root_of(entries), sum(entry.weight for entry in entries)
        await self.chain.close_list(self.task, self.number, root=root)
        await self.chain.propose_sum(
            self.task, self.number, updates_root=root, sum_digest=sum_digest, owners=3, weight=weight
        )
        return SumAttestation(self.task, self.number, root, sum_digest, 3, weight)

    async def confirm(self, attestation: SumAttestation) -> None:
        await confirm(self.chain, attestation, self.fleet.validators)

    async def tell(self, entries: Sequence[Entry], total: Transfer) -> None:
        """The coordinator's word for what is in the sum."""
        aggregate = Aggregate(tuple(entries), root_of(entries), total, sum(entry.weight for entry in entries))
        topic = self.fleet.topics.aggregate
        await self.coordinator.post.say(topic, Kind.AGGREGATE, encode(aggregate), round_=self.number)

    def openings(self) -> list[Opened]:
        """What the custodian has opened in this round."""
        topic = self.fleet.topics.opened(self.fleet.address("custodian"))
        heard = [opened(message) for message in self.fleet.witness.on(topic)]
        return [decode(Opened, message.body) for message in heard if message.header.round == self.number]

    @property
    def key_exists(self) -> bool:
        return (self.fleet.state("custodian") / "keys" / f"round-{self.number:06d}.key").exists()

    async def refusals(self, reason: Reason) -> float:
        return await self.fleet.metric(
            "custodian", "gemel_messages_refused_total", kind="aggregate", reason=str(reason)
        )

    async def expect_refusal(self, entries: Sequence[Entry], total: Transfer, reason: Reason) -> None:
        before = await self.refusals(reason)
        await self.tell(entries, total)

        async def counted() -> bool:
            return await self.refusals(reason) == before + 1

        await self.fleet.until(counted)
        assert self.openings() == []
        await self.end_unopened()

    async def end_unopened(self) -> None:
        """Abort the round: the custodian destroys its key, and has opened nothing."""
        assert (await self.chain.round(self.task, self.number)).opened == "0" * 64
        await self.chain.abort(self.task, self.number, reason="the test is over")

        async def key_is_gone() -> bool:
            return not self.key_exists

        await self.fleet.until(key_is_gone)
        assert self.openings() == []


async def desk_of(founded: Fleet) -> Desk:
    """M0 is in use, and the custodian, which runs, waits for rounds."""
    chain, listener = await founded.chain_of("coordinator"), await founded.chain_of("listener")
    m0, name, policy = sha256(tensors.to_bytes(task.initial_model(1))), founded.trust.task, founded.plan.policy
    await chain.propose_genesis(name, model=m0, policy=policy.digest)
    await approve(chain, name, 0, founded.validators, accuracy=500_000)
    await listener.record_deployed(name, 0, agents=1)
    return Desk(founded, await founded.play("coordinator"), chain)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """M0 is in use, and the custodian waits for rounds."""
    async with in_one_task(fleet(tmp_path_factory.mktemp("custodian"), OWNERS)) as founded:
        await founded.start("custodian")
        yield await desk_of(founded)


@pytest_asyncio.fixture(loop_scope="module")
async def context(desk: Desk) -> bytes:
    """A round of the test's own is open, and its key is made."""
    await desk.open_round()
    return await desk.context()


@pytest.mark.asyncio(loop_scope="module")
async def test_key_of_the_round_is_for_its_owner_only(desk: Desk, context: bytes) -> None:
    key = desk.fleet.state("custodian") / "keys" / f"round-{desk.number:06d}.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert context in key.read_bytes()
    await desk.end_unopened()


@pytest.mark.asyncio(loop_scope="module")
async def test_sum_that_the_chain_has_not_confirmed_is_not_opened(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    transfer = await desk.coordinator.transfers.offer(total)
    attestation = await desk.propose(entries, transfer.digest)
    await confirm(desk.chain, attestation, desk.fleet.validators[:1])  # one of the two that are needed
    await desk.tell(entries, transfer)
    await desk.end_unopened()
    custodian = desk.fleet.address("custodian")
    fetches = desk.fleet.witness.on(desk.fleet.topics.fetch(desk.coordinator.address, custodian))
    assert not [message for message in fetches if transfer.digest.encode() in message.payload]


@pytest.mark.asyncio(loop_scope="module")
async def test_another_sum_than_the_confirmed_one_is_refused(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    await desk.confirm(await desk.propose(entries, sha256(total)))
    _, other = desk.updates(context, DISTINCT)
    await desk.expect_refusal(entries, await desk.coordinator.transfers.offer(other), Reason.DIGEST_MISMATCH)


@pytest.mark.asyncio(loop_scope="module")
async def test_other_bytes_under_the_confirmed_digest_are_not_opened(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    _, other = desk.updates(context, DISTINCT)
    assert len(other) == len(total)
    (desk.fleet.root / "played-coordinator" / "out" / sha256(total)).write_bytes(other)
    await desk.confirm(await desk.propose(entries, sha256(total)))
    await desk.tell(entries, describe(total))
    topic = desk.fleet.topics.fetch(desk.coordinator.address, desk.fleet.address("custodian"))

    async def asked_again() -> bool:
        asked = [m for m in desk.fleet.witness.on(topic) if sha256(total).encode() in m.payload]
        return len(asked) > 1

    await desk.fleet.until(asked_again)
    await desk.end_unopened()


@pytest.mark.asyncio(loop_scope="module")
async def test_updates_that_are_not_under_the_confirmed_root_are_refused(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    transfer = await desk.coordinator.transfers.offer(total)
    await desk.confirm(await desk.propose(entries, transfer.digest))
    others = (msgspec.structs.replace(entries[0], weight=51), *entries[1:])
    await desk.expect_refusal(others, transfer, Reason.DIGEST_MISMATCH)


@pytest.mark.asyncio(loop_scope="module")
async def test_confirmed_sum_of_one_owners_devices_is_refused(desk: Desk, context: bytes) -> None:
    """Coordinator and validators together say three owners: the custodian counts them itself."""
    entries, total = desk.updates(context, ONE_OWNER)
    transfer = await desk.coordinator.transfers.offer(total)
    await desk.confirm(await desk.propose(entries, transfer.digest))
    await desk.expect_refusal(entries, transfer, Reason.TOO_FEW_OWNERS)


@pytest.mark.asyncio(loop_scope="module")
async def test_confirmed_sum_with_a_device_that_nobody_registered_is_refused(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    invented = (*entries[:2], msgspec.structs.replace(entries[2], device="0x" + "99" * 20))
    transfer = await desk.coordinator.transfers.offer(total)
    await desk.confirm(await desk.propose(invented, transfer.digest))
    await desk.expect_refusal(invented, transfer, Reason.UNREGISTERED)


@pytest.mark.asyncio(loop_scope="module")
async def test_single_update_that_passes_for_a_sum_is_not_opened(desk: Desk, context: bytes) -> None:
    """Even with coordinator and validators corrupt, the body itself says how many were added."""
    entries, _ = desk.updates(context, DISTINCT)
    vector = np.zeros(task.manifest.size, np.float32)
    single = seal_update(context, desk.fleet.plan.policy.sealing, vector, 50, vector).body
    transfer = await desk.coordinator.transfers.offer(single)
    await desk.confirm(await desk.propose(entries, transfer.digest))
    await desk.expect_refusal(entries, transfer, Reason.MALFORMED)


@pytest.mark.asyncio(loop_scope="module")
async def test_confirmed_sum_is_opened_once_for_collectors_and_its_key_destroyed(desk: Desk, context: bytes) -> None:
    entries, total = desk.updates(context, DISTINCT)
    transfer = await desk.coordinator.transfers.offer(total)
    await desk.confirm(await desk.propose(entries, transfer.digest))
    await desk.tell(entries, transfer)
    record = await desk.fleet.reached(desk.chain, desk.number, RoundState.OPENED)

    async def key_is_gone() -> bool:
        return not desk.key_exists

    await desk.fleet.until(key_is_gone)
    (announced,) = desk.openings()
    assert announced.opened == record.opened
    custodian = desk.fleet.address("custodian")
    wrapped = await desk.fleet.wait(
        desk.coordinator.transfers.fetch(custodian, announced.transfer, max_bytes=1 << 24, deadline_s=WAIT_S)
    )
    assert sha256(boxes.unwrap(wrapped, desk.coordinator.keys.box_secret)) == record.opened
    _, second = desk.updates(context, DISTINCT)
    await desk.tell(entries, await desk.coordinator.transfers.offer(second))
    await desk.chain.abort(desk.task, desk.number, reason="the test is over")
    await desk.open_round()
    await desk.context()  # the custodian has gone on: whatever it was to do for the round before, it has done
    desk.number -= 1
    assert len(desk.openings()) == 1


# --- the custodian's state set back -------------------------------------------------------------------


async def test_custodian_set_back_to_before_its_opening_opens_nothing_again(tmp_path: Path) -> None:
    """Its whole state directory is restored from a copy: the round's key is there again, no opening is written down.

    The chain remembers: it holds one confirmed sum a round, and says that it was opened. Key and copies of the
    ciphertexts are all that an intruder could want, and the custodian's first act is to destroy the key.
    """
    async with fleet(tmp_path, OWNERS) as plant:
        arguments = ["--config", str(plant._configure("custodian", {}))]
        custodian = Member("custodian", arguments, plant.root / "logs" / "custodian.log")
        await custodian.start()
        try:
            desk = await desk_of(plant)
            await desk.open_round()
            context = await desk.context()
            entries, total = desk.updates(context, DISTINCT)
            transfer = await desk.coordinator.transfers.offer(total)
            await desk.confirm(await desk.propose(entries, transfer.digest))
            state, copy = plant.state("custodian"), tmp_path / "backup"
            shutil.copytree(state, copy)

            async def key_is_gone() -> bool:
                return not desk.key_exists

            await desk.tell(entries, transfer)
            record = await plant.reached(desk.chain, desk.number, RoundState.OPENED)
            await plant.until(key_is_gone)
            (announced,) = desk.openings()
            await custodian.kill()
            shutil.rmtree(state)
            copy.rename(state)
            assert desk.key_exists
            restored = (state / "keys" / f"round-{desk.number:06d}.key").read_bytes()
            assert Opener.from_bytes(restored).open(total, len(DISTINCT))  # a key that opens: only rules are left

            single = desk.updates(context, DISTINCT[:1])[1]
            _, other = desk.updates(context, DISTINCT)
            await custodian.start()
            for body in (total, other, single):
                await desk.tell(entries, await desk.coordinator.transfers.offer(body))
            await plant.until(key_is_gone)
            for body in (total, other, single):
                await desk.tell(entries, describe(body))

            await desk.chain.abort(desk.task, desk.number, reason="the test is over")
            await desk.open_round()
            await desk.context()  # it has gone on: whatever it was to do for the round before, it has done
            desk.number -= 1
            assert desk.openings() == [announced]
            assert (await desk.chain.round(desk.task, desk.number)).opened == record.opened
            offered = {path.name for path in (state / "transfers" / "out").iterdir()}
            assert announced.transfer.digest not in offered
        finally:
            if custodian.alive:
                await custodian.stop()
