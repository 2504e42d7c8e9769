"""A real edge agent that runs an approved model, and a hostile listener, coordinator or validator played by the test.

Whatever they send, the agent keeps what it runs and says why in its retained status. The tests share one agent and
take any order: each sends one deployment that must not be installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from gemel.learning.task import Windows
from gemel.twin.agent import AgentStatus, status_from_json
from gemel.wire import boxes, envelope, tensors, topics
from gemel.wire.attestations import ModelAttestation, Vote, attest
from gemel.wire.envelope import Header, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import (
    Context,
    Deployment,
    Fetch,
    Installed,
    Invitation,
    ModelOffer,
    Restored,
    TrainingPlan,
    decode,
    encode,
)
from gemel.wire.reasons import Reason
from gemel.wire.standing import Facts, sign_standing
from gemel.wire.tensors import Model
from gemel.wire.types import NO_DIGEST, Digest, sha256
from tests.support.fleet import SITE, Fleet, Player, fleet, in_one_task, opened
from tests.support.tiny_task import sample_windows, task

pytestmark = pytest.mark.asyncio(loop_scope="module")

AGENT = "gateway"
ROUND = 7


@dataclass(slots=True)
class Plant:
    """One running agent, and who it is to believe in the hands of the test."""

    fleet: Fleet
    listener: Player
    coordinator: Player
    custodian: Player
    in_use: bytes = b""
    before: bytes = b""  # what ran before it
    number: int = 0  # of the deployment in use
    deployments: list[bytes] = field(default_factory=list)  # every message by which something was installed
    _last: int = 0

    @property
    def agent(self) -> str:
        return self.fleet.address(AGENT)

    def next_number(self) -> int:
        """A deployment number that nobody has used."""
        self._last += 1
        return self._last

    def votes(self, deployment: Deployment, /, *validators: Identity, **changes: object) -> tuple[Vote, ...]:
        """Approvals of a deployment, really signed; `changes`: what was signed instead."""
        facts = {
            "task": self.fleet.trust.task,
            "round": ROUND,
            "deployment": deployment.deployment,
            "parent": deployment.parent,
            "model": deployment.model,
            "accuracy": 900_000,
            "baseline": 0,
            "approved": True,
        }
        signed = msgspec.convert(facts | changes, ModelAttestation)
        return tuple(
            Vote(
                validator.address,
                signed.accuracy,
                signed.baseline,
                signed.approved,
                attest(signed, self.fleet.trust.domain, validator).hex(),
            )
            for validator in validators
        )

    @property
    def validators(self) -> tuple[Identity, ...]:
        return tuple(self.fleet.keys[name].identity for name in self.fleet.plan.validator_names)

    def approvals_of(self, validators: int) -> str:
        """How the agent puts it that so many of the validators, who weigh the same, have approved."""
        electorate = self.fleet.trust.electorate
        weight = validators * electorate.members[0].weight
        return f"approvals: {weight} of the stake of epoch {electorate.epoch}, {electorate.quorum_weight} needed"

    def standings(self, deployment: Deployment, /, *validators: Identity, **changes: object) -> Restored:
        """That such a deployment stands, really signed; `changes`: what was signed instead."""
        trust = self.fleet.trust
        facts = Facts(
            trust.electorate.epoch,
            trust.electorate.digest,
            deployment.deployment,
            deployment.model,
            self.fleet.plan.policy.digest,
        )
        facts = msgspec.structs.replace(facts, **changes)
        signed = (sign_standing(facts, trust.task, trust.domain, v, block=1, time_ms=1) for v in validators)
        return Restored(facts, tuple(signed))

    def restored(self, model: Digest, number: int | None = None) -> Deployment:
        """A deployment of an older model that a quorum of the validators says stands."""
        deployment = self.approval(model, number)
        return msgspec.structs.replace(deployment, restored=self.standings(deployment, *self.validators))

    def approval(self, model: Digest, number: int | None = None) -> Deployment:
        """A deployment with everything but votes."""
        return Deployment(
            deployment=self.next_number() if number is None else number,
            parent=sha256(self.in_use) if self.in_use else NO_DIGEST,
            model=model,
            epoch=self.fleet.trust.electorate.epoch,
            votes=(),
            accuracy=900_000,
            transaction=sha256(b"a transaction"),
            block=1,
        )

    def approved(self, model: Digest, number: int | None = None) -> Deployment:
        """A deployment that a quorum of the pinned validators has approved."""
        deployment = self.approval(model, number)
        return msgspec.structs.replace(deployment, votes=self.votes(deployment, *self.validators))

    def signed(self, deployment: Deployment, by: Player | None = None) -> bytes:
        body = encode(deployment)
        return envelope.pack((by or self.listener).post.sign(Kind.DEPLOYMENT, body, round_=ROUND))

    async def announce(self, message: bytes) -> None:
        await self.listener.bus.publish(self.fleet.topics.deployment, message, retain=True)

    async def offer(self, model: Digest, data: bytes, since: int) -> None:
        """Wait until the agent asks for `model`, and offer it `data`."""

        def asks(payload: bytes) -> bool:
            request = decode(Fetch, payload[envelope.HEADER_BYTES :])
            return Header.parse(payload).sender == self.agent and request.model == model

        of = self.fleet.topics
        await self.fleet.heard(of.fetch(self.coordinator.address, self.agent), since=since, where=asks)
        wrapped = boxes.wrap(data, [self.fleet.keys[AGENT].box])
        transfer = await self.coordinator.transfers.offer(wrapped)
        await self.coordinator.post.say(of.model, Kind.MODEL, encode(ModelOffer(model, transfer)))

    async def install(self, data: bytes) -> None:
        """As an honest fleet does it."""
        deployment, since = self.approved(sha256(data)), self.fleet.witness.now
        message = self.signed(deployment)
        await self.announce(message)
        await self.offer(deployment.model, data, since)
        report = await self.report(since)
        assert (report.outcome, report.model) == ("installed", deployment.model), report
        self.before, self.in_use, self.number = self.in_use, data, deployment.deployment
        self.deployments.append(message)

    async def report(self, since: int) -> Installed:
        topic = self.fleet.topics.installed(self.agent)
        return decode(Installed, (await self.fleet.heard(topic, since=since)).body)

    async def word(self, since: int, outcome: str) -> Installed:
        """A canary's word on how the model does."""
        topic = self.fleet.topics.installed(self.agent)

        def says(payload: bytes) -> bool:
            return decode(Installed, payload[envelope.HEADER_BYTES :]).outcome == outcome

        return decode(Installed, (await self.fleet.heard(topic, since=since, where=says)).body)

    async def status(self, word: str) -> AgentStatus:
        """The latest status, as soon as that holds this word. A status is not said again where nothing changed."""
        topic = topics.agent(SITE, AGENT, "status")

        async def says() -> bool:
            return any(word.encode() in message.payload for message in self.fleet.witness.on(topic)[-1:])

        await self.fleet.until(says)
        return status_from_json(self.fleet.witness.on(topic)[-1].payload)

    async def expect_refusal(
        self, message: bytes, reason: Reason, word: str, served: bytes | None = None, *, reported: bool | None = None
    ) -> None:
        """The agent goes on with what it runs, and says in its status why; `served`: what it gets for the model.

        It tells the listener, too, where the message is the listener's own; `reported` says whether that is so.
        """
        if reported is None:
            reported = Header.parse(message).sender == self.listener.address and reason != Reason.DIGEST_MISMATCH
        since = self.fleet.witness.now
        await self.announce(message)
        if served is not None:
            await self.offer(decode(Deployment, message[envelope.HEADER_BYTES :]).model, served, since)
        if reported:
            report = await self.report(since)
            assert report.outcome == "refused"
            assert report.reason.startswith(f"refused: {reason}"), report
        status = await self.status(word)
        assert status.refusal.startswith(f"refused: {reason}"), status.refusal
        assert status.model is not None
        assert (status.model.deployment, status.model.digest) == (self.number, sha256(self.in_use))
        models = (self.fleet.state(AGENT) / "models").iterdir()
        assert {path.read_bytes() for path in models} == {self.in_use, self.before}  # and nothing that was refused


def some_model(seed: int) -> bytes:
    return tensors.to_bytes(task.initial_model(seed))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    """The agent runs its second deployment, so that there is an older one to replay."""
    folder = tmp_path_factory.mktemp("refused-models")
    owners = {AGENT: "a", "gateway-b": "b", "gateway-c": "c"}
    async with in_one_task(fleet(folder, owners)) as founded:
        listener, coordinator = await founded.play("listener"), await founded.play("coordinator")
        await founded.give_examples(AGENT, seed=1)
        await founded.start(AGENT)
        plant = Plant(founded, listener, coordinator, await founded.play("custodian"))
        await plant.install(some_model(1))
        await plant.install(some_model(2))
        yield plant


async def test_approval_by_keys_that_are_not_pinned_is_refused(plant: Plant) -> None:
    deployment = plant.approval(sha256(some_model(3)))
    strangers = (Identity(b"\1" * 32), Identity(b"\2" * 32))
    forged = msgspec.structs.replace(deployment, votes=plant.votes(deployment, *strangers))
    await plant.expect_refusal(plant.signed(forged), Reason.NO_QUORUM, "a vote is not by")


async def test_votes_in_pinned_names_by_other_keys_are_refused(plant: Plant) -> None:
    deployment = plant.approval(sha256(some_model(3)))
    strangers = plant.votes(deployment, Identity(b"\3" * 32), Identity(b"\4" * 32))
    named = tuple(
        msgspec.structs.replace(vote, validator=validator.address)
        for vote, validator in zip(strangers, plant.validators, strict=True)
    )
    forged = msgspec.structs.replace(deployment, votes=named)
    await plant.expect_refusal(plant.signed(forged), Reason.NO_QUORUM, plant.validators[0].address)


async def test_too_few_votes_are_refused(plant: Plant) -> None:
    deployment = plant.approval(sha256(some_model(3)))
    one = msgspec.structs.replace(deployment, votes=plant.votes(deployment, plant.validators[0]))
    await plant.expect_refusal(plant.signed(one), Reason.NO_QUORUM, plant.approvals_of(1))


async def test_one_validators_vote_twice_is_one_vote(plant: Plant) -> None:
    deployment = plant.approval(sha256(some_model(4)))
    twice = msgspec.structs.replace(deployment, votes=plant.votes(deployment, *[plant.validators[1]] * 2))
    await plant.expect_refusal(plant.signed(twice), Reason.NO_QUORUM, plant.approvals_of(1))


async def test_votes_against_a_model_are_no_approval(plant: Plant) -> None:
    deployment = plant.approval(sha256(some_model(3)))
    against = plant.votes(deployment, *plant.validators, approved=False)
    message = plant.signed(msgspec.structs.replace(deployment, votes=against))
    await plant.expect_refusal(message, Reason.NO_QUORUM, plant.approvals_of(0))


@pytest.mark.parametrize(
    "what",
    [
        {"model": sha256(b"another model")},
        {"parent": sha256(b"another parent")},
        {"deployment": 1000},
        {"round": ROUND + 1},
        {"task": "another-task"},
    ],
    ids=lambda what: next(iter(what)),
)
async def test_votes_over_something_else_are_refused(plant: Plant, what: dict[str, object]) -> None:
    deployment = plant.approval(sha256(some_model(3)))
    other = msgspec.structs.replace(deployment, votes=plant.votes(deployment, *plant.validators, **what))
    await plant.expect_refusal(plant.signed(other), Reason.NO_QUORUM, "a vote is not by")


async def test_replayed_older_approval_is_refused(plant: Plant) -> None:
    await plant.expect_refusal(plant.deployments[0], Reason.NOT_ABOVE, "deployment 1, we run 2")


async def test_another_model_under_the_number_in_use_is_refused(plant: Plant) -> None:
    again = plant.approved(sha256(some_model(3)), plant.number)
    await plant.expect_refusal(plant.signed(again), Reason.NOT_ABOVE, f"deployment {plant.number}, we run")


async def test_deployment_that_the_listener_did_not_sign_is_refused(plant: Plant) -> None:
    message = plant.signed(plant.approved(sha256(some_model(3))), by=plant.coordinator)
    before = await refused_messages(plant, Reason.UNREGISTERED)
    await plant.expect_refusal(message, Reason.UNREGISTERED, plant.coordinator.address)
    assert await refused_messages(plant, Reason.UNREGISTERED) == before + 1


async def test_deployment_whose_bytes_were_changed_on_the_way_is_refused(plant: Plant) -> None:
    message = plant.signed(plant.approved(sha256(some_model(3))))
    changed = message.replace(sha256(some_model(3)).encode(), sha256(some_model(5)).encode())
    before = await refused_messages(plant, Reason.DIGEST_MISMATCH)
    await plant.expect_refusal(changed, Reason.DIGEST_MISMATCH, "body is not the one that was signed")
    assert await refused_messages(plant, Reason.DIGEST_MISMATCH) == before + 1


async def refused_messages(plant: Plant, reason: Reason) -> float:
    return await plant.fleet.metric(AGENT, "gemel_messages_refused_total", kind="deployment", reason=reason)


async def test_model_whose_bytes_are_not_the_approved_ones_is_refused(plant: Plant) -> None:
    message = plant.signed(plant.approved(sha256(some_model(3))))
    await plant.expect_refusal(message, Reason.DIGEST_MISMATCH, "these bytes are not model", served=some_model(6))


def with_nan() -> Model:
    model = task.initial_model(1)
    model["pump.bias"][0] = np.nan
    return model


def other_shapes() -> Model:
    return {name: np.zeros((2, *values.shape), np.float32) for name, values in task.initial_model(1).items()}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (tensors.to_bytes(with_nan()), "not finite"),
        (tensors.to_bytes(other_shapes()), "not those of this task"),
        (b"\xff" * 100, "not safetensors"),
    ],
    ids=["nan", "other shapes", "no model"],
)
async def test_approved_bytes_that_are_no_model_of_the_task_are_refused(plant: Plant, data: bytes, word: str) -> None:
    message = plant.signed(plant.approved(sha256(data)))
    await plant.expect_refusal(message, Reason.BROKEN_MODEL, word, served=data)


async def test_older_model_without_anybodys_word_is_refused(plant: Plant) -> None:
    """Neither votes nor standings: the listener alone says that the chain went back."""
    await plant.expect_refusal(
        plant.signed(plant.approval(sha256(plant.before))), Reason.NO_QUORUM, plant.approvals_of(0)
    )


async def test_older_model_with_too_few_standings_is_refused(plant: Plant) -> None:
    deployment = plant.approval(sha256(plant.before))
    for signers in ((), plant.validators[:1], plant.validators[:1] * 2):
        word = plant.standings(deployment, *signers)
        message = plant.signed(msgspec.structs.replace(deployment, restored=word))
        await plant.expect_refusal(message, Reason.NO_QUORUM, f"standing of deployment {deployment.deployment}")
        deployment = plant.approval(sha256(plant.before))


async def test_older_model_with_standings_of_strangers_is_refused(plant: Plant) -> None:
    deployment = plant.approval(sha256(plant.before))
    strangers = plant.standings(deployment, Identity(b"\5" * 32), Identity(b"\6" * 32))
    message = plant.signed(msgspec.structs.replace(deployment, restored=strangers))
    await plant.expect_refusal(message, Reason.NO_QUORUM, "a standing is not signed by")


@pytest.mark.parametrize(
    "what",
    [{"model": sha256(b"another model")}, {"deployment": 1000}, {"epoch": 2}, {"electorate": sha256(b"another")}],
    ids=lambda what: next(iter(what)),
)
async def test_standings_of_something_else_bring_no_older_model_back(plant: Plant, what: dict[str, object]) -> None:
    deployment = plant.approval(sha256(plant.before))
    word = plant.standings(deployment, *plant.validators, **what)
    message = plant.signed(msgspec.structs.replace(deployment, restored=word))
    await plant.expect_refusal(message, Reason.DIGEST_MISMATCH, "another", reported=True)


async def test_older_model_under_its_old_number_is_refused(plant: Plant) -> None:
    """Once it stood, and validators said so: the number tells that it is history."""
    message = plant.signed(plant.restored(sha256(plant.before), plant.number))
    await plant.expect_refusal(message, Reason.NOT_ABOVE, f"deployment {plant.number}, we run")


async def test_votes_of_an_epoch_that_nobody_knows_are_refused_for_now(plant: Plant) -> None:
    deployment = msgspec.structs.replace(plant.approval(sha256(some_model(3))), epoch=9)
    message = plant.signed(msgspec.structs.replace(deployment, votes=plant.votes(deployment, *plant.validators)))
    await plant.expect_refusal(message, Reason.UNKNOWN_EPOCH, "epoch 9")


async def test_deployment_for_other_canaries_waits(plant: Plant) -> None:
    deployment = plant.approved(sha256(some_model(3)))
    for_others = msgspec.structs.replace(deployment, canaries=(plant.fleet.address("gateway-b"),))
    await plant.announce(plant.signed(for_others))
    status = await plant.status(f"waiting for the canaries of deployment {deployment.deployment}")
    assert status.model is not None
    assert (status.model.deployment, status.refusal) == (plant.number, "")


async def test_deployment_for_other_canaries_that_nobody_approved_is_refused(plant: Plant) -> None:
    """To wait for it would tell a person that it is on its way."""
    forged = msgspec.structs.replace(plant.approval(sha256(some_model(3))), canaries=("0x" + "1" * 40,))
    await plant.expect_refusal(plant.signed(forged), Reason.NO_QUORUM, plant.approvals_of(0))


async def test_invitation_from_a_crafted_base_gets_no_update(plant: Plant) -> None:
    """Nobody trains from a model that was never approved: its update would tell what the base was crafted to ask."""
    crafted, of = sha256(some_model(666)), plant.fleet.topics
    now_ms = plant.coordinator.post.clock.now_ms()
    context = await plant.custodian.transfers.offer(b"a sealing context")
    invitation = Invitation(plant.fleet.plan.policy, context, now_ms, 1, now_ms + 1000, now_ms + 2000)
    facts = {"round_": ROUND, "base": crafted, "policy": plant.fleet.plan.policy.digest}
    topic = of.context(plant.custodian.address)
    await plant.custodian.post.say(topic, Kind.CONTEXT, encode(Context(context)), **facts)
    await plant.coordinator.post.say(of.invitation, Kind.INVITATION, encode(invitation), **facts)
    status = await plant.status("not the model in use")
    assert status.learning is not None
    assert status.learning.participation.startswith(f"refused: {Reason.WRONG_BASE}")
    assert status.model is not None
    assert status.model.digest == sha256(plant.in_use)
    assert not plant.fleet.witness.on(of.commitment(plant.agent))


async def test_canary_installs_watches_and_says_how_the_model_does(plant: Plant) -> None:
    """The same model again, which cannot be worse; then everybody's turn comes, and nothing is installed twice."""
    deployment, since = plant.approved(sha256(plant.in_use)), plant.fleet.witness.now
    for_us = msgspec.structs.replace(deployment, canaries=(plant.agent,))
    await plant.announce(plant.signed(for_us))
    assert (await plant.report(since)).outcome == "installed"
    word = await plant.word(since, "healthy")
    assert (word.deployment, word.model) == (deployment.deployment, deployment.model)
    status = await plant.status(f"deployment {deployment.deployment} is healthy here")
    assert status.deploying.endswith(word.reason)
    plant.number = deployment.deployment
    since = plant.fleet.witness.now
    await plant.announce(plant.signed(deployment))
    assert (await plant.report(since)).outcome == "installed"
    assert (await plant.status('"deploying":""')).model == status.model


async def test_canary_that_finds_the_model_worse_says_so_and_goes_back_without_a_download(plant: Plant) -> None:
    """A model that learnt the contrary of what this machine's inspections found, and the older one restored."""
    good, bad = taught(contrary=False), taught(contrary=True)
    await plant.install(good)
    deployment, since = plant.approved(sha256(bad)), plant.fleet.witness.now
    await plant.announce(plant.signed(msgspec.structs.replace(deployment, canaries=(plant.agent,))))
    await plant.offer(deployment.model, bad, since)
    word = await plant.word(since, "unhealthy")
    assert "are wrong that were right before" in word.reason
    asked = len(plant.fleet.witness.on(plant.fleet.topics.fetch(plant.coordinator.address, plant.agent)))
    restored, since = plant.restored(sha256(good)), plant.fleet.witness.now
    await plant.announce(plant.signed(restored))
    report = await plant.report(since)
    assert (report.outcome, report.deployment, report.model) == ("installed", restored.deployment, sha256(good))
    status = await plant.status(f'"deployment":{restored.deployment}')
    assert status.model is not None
    assert (status.model.digest, status.deploying) == (sha256(good), "")
    assert len(plant.fleet.witness.on(plant.fleet.topics.fetch(plant.coordinator.address, plant.agent))) == asked
    plant.before, plant.in_use, plant.number = bad, good, restored.deployment


def taught(*, contrary: bool) -> bytes:
    """A model that learnt this agent's windows, or the first wrong class for each."""
    windows = sample_windows(seed=1)
    labels = (windows.labels + contrary) % np.array([len(head.classes) for head in task.heads])
    plan = TrainingPlan(epochs=30, batch_size=16, learning_rate=0.5)
    model = task.train(task.initial_model(1), Windows(windows.inputs, labels), plan, 1, 1).model
    return tensors.to_bytes(model)


async def test_agent_that_refused_all_that_still_takes_what_is_approved(plant: Plant) -> None:
    await plant.install(some_model(7))
    status = await plant.status(sha256(some_model(7)))
    assert status.refusal == ""
    assert opened(plant.fleet.witness.on(plant.fleet.topics.installed(plant.agent))[-1]).header.sender == plant.agent
