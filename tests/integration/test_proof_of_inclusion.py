"""After a real round every agent can show, from what it heard, that its update is in the model it runs."""

from __future__ import annotations

import numpy as np

from gemel.wire import merkle
from gemel.wire.attestations import SumAttestation, check_confirmed
from gemel.wire.envelope import Header
from gemel.wire.messages import Aggregate, Commitment, Deployment, Receipt, decode
from gemel.wire.trust import load_trust
from tests.support.fleet import TASK, opened
from tests.support.tiny_task import task
from tests.support.witnessed_round import AGENTS, ROUND, WitnessedRound


def heard(round_: WitnessedRound, topic: str) -> list[bytes]:
    """Bodies that were said on a topic, by whomever."""
    return [opened(message).body for message in round_.messages if message.topic == topic]


def deployment_of(round_: WitnessedRound) -> Deployment:
    bodies = [decode(Deployment, body) for body in heard(round_, round_.topics.deployment)]
    return next(body for body in bodies if body.deployment == ROUND + 1)


def test_deployment_carries_a_quorum_of_confirmations_of_its_sum(witnessed_round: WitnessedRound) -> None:
    trust = load_trust((witnessed_round.folder / "trust.json").read_bytes(), "trust.json")
    confirmed = deployment_of(witnessed_round).confirmed
    assert confirmed is not None
    (aggregate,) = (decode(Aggregate, body) for body in heard(witnessed_round, witnessed_round.topics.aggregate))
    assert (confirmed.updates_root, confirmed.sum) == (aggregate.updates_root, aggregate.sum.digest)
    attested = SumAttestation(TASK, ROUND, confirmed.updates_root, confirmed.sum, confirmed.owners, confirmed.weight)
    check_confirmed(trust.domain, attested, confirmed.confirmations, trust.electorate)


def test_every_agent_gets_the_way_from_its_update_to_the_confirmed_root(witnessed_round: WitnessedRound) -> None:
    confirmed = deployment_of(witnessed_round).confirmed
    assert confirmed is not None
    for agent in AGENTS:
        own = witnessed_round.addresses[agent]
        said = (decode(Receipt, body) for body in heard(witnessed_round, witnessed_round.topics.receipt(own)))
        (included,) = [receipt for receipt in said if receipt.outcome == "included"]
        (update,) = {
            Header.parse(commitment.update_header)
            for body in heard(witnessed_round, witnessed_round.topics.commitment(own))
            if len(body) == Commitment.SIZE
            and (commitment := Commitment.parse(body)).transfer.digest == included.transfer
        }
        leaf = merkle.leaf(own, update.body_digest, update.weight, included.level)
        assert merkle.verify(confirmed.updates_root, leaf, [bytes.fromhex(each) for each in included.proof])


def test_every_agents_residual_advanced_with_the_model(witnessed_round: WitnessedRound) -> None:
    for agent in AGENTS:
        kept = np.load(witnessed_round.folder / agent / "residual-kept.npy", allow_pickle=False)
        assert kept.shape == (task.manifest.size,)
        assert kept.any()
        assert not (witnessed_round.folder / agent / "residual-pending.npy").exists()
