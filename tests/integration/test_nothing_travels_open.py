"""A listener on `#` records a whole round of real services; what must stay secret is then looked for in the record.

The embedded broker has no access list, so the listener stands for anybody who taps the broker. The secrets are made
again from the parties' state directories after the round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gemel.sealing.frames import BODY_HEADER_BYTES, OpenedSum
from gemel.sealing.packing import quantise
from gemel.wire import tensors
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import Receipt, decode
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Vector
from gemel.wire.types import sha256
from tests.support.tiny_task import task
from tests.support.witnessed_round import AGENTS, SAMPLES, WitnessedRound

PIECE_BYTES = 24  # of a secret: by chance such a piece occurs nowhere


@pytest.fixture(scope="module")
def record(witnessed_round: WitnessedRound) -> bytes:
    """Every payload, and every transfer put together from its chunks."""
    return b"\0".join([message.payload for message in witnessed_round.messages] + witnessed_round.transfers())


def pieces(secret: bytes) -> Iterator[bytes]:
    """The secret cut up; pieces without content of their own (zeros, padding) tell nothing and are left out."""
    edges = range(0, len(secret) + 1, PIECE_BYTES)
    for start, stop in pairwise(edges):
        piece = secret[start:stop]
        if len(set(piece)) > 3:
            yield piece


def occurrences(secret: bytes, record: bytes) -> int:
    cut = list(pieces(secret))
    assert cut, "a secret without a piece to look for"
    return sum(piece in record for piece in cut)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an agent made, as it never left its process in the open."""

    update: Vector
    integers: Vector


def secrets_of(witnessed: WitnessedRound, agent: str) -> Secrets:
    """Train again: equal arguments give equal bytes."""
    update = witnessed.update_of(agent)
    policy = witnessed.policy.sealing
    share = SAMPLES / policy.weight_cap
    return Secrets(update, quantise(update, update * 0, clip=policy.clip, bits=policy.bits, share=share).values)


def test_record_holds_the_whole_round(witnessed_round: WitnessedRound, record: bytes) -> None:
    """The search finds what does travel in the open: or it would prove nothing."""
    kinds = {message.topic.split("/")[5] for message in witnessed_round.learning()}
    assert kinds == {
        *("context", "invitation", "commitment", "roster", "receipt", "aggregate", "opened", "candidate"),
        *("deployment", "model", "installed", "fetch", "chunk", "ballot", "standing"),
    }
    folder = witnessed_round.round_folder
    assert (folder / "roster").read_bytes() in record
    assert (folder / "context").read_bytes() in record  # public: agents seal with it
    assert occurrences((folder / "sum").read_bytes()[BODY_HEADER_BYTES:], record) > 1000  # sealed: may be seen


def test_secrets_made_again_are_those_of_the_round(witnessed_round: WitnessedRound) -> None:
    """The agents' integers add up to the opened sum, so it is their real updates that are looked for."""
    total = sum(secrets_of(witnessed_round, agent).integers for agent in AGENTS)
    raw = (witnessed_round.round_folder / "opened").read_bytes()
    opened = OpenedSum.parse(raw, witnessed_round.policy.sealing, task.manifest.size)
    assert opened.contributors == len(AGENTS)
    assert np.array_equal(total, opened.sums)


@pytest.mark.parametrize("agent", AGENTS)
def test_no_update_travels_in_the_open(witnessed_round: WitnessedRound, record: bytes, agent: str) -> None:
    secrets = secrets_of(witnessed_round, agent)
    assert occurrences(secrets.update.tobytes(), record) == 0
    for kind in ("<i1", "<i2", "<i4", "<i8"):
        assert occurrences(secrets.integers.astype(kind).tobytes(), record) == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_no_sealed_frame_travels_unwrapped(witnessed_round: WitnessedRound, record: bytes, agent: str) -> None:
    """Who sees frames and the opened sum could, with an agent that seals dishonestly, recover the round's key."""
    frame = (witnessed_round.round_folder / "frames" / witnessed_round.addresses[agent]).read_bytes()
    header, body = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
    assert header in record  # the commitment has it: digest and size, no content
    assert occurrences(body[BODY_HEADER_BYTES:], record) == 0
    assert body[:BODY_HEADER_BYTES] not in record


def test_no_opened_sum_travels_in_the_open(witnessed_round: WitnessedRound, record: bytes) -> None:
    opened = (witnessed_round.round_folder / "opened").read_bytes()
    assert sha256(opened).encode() in record  # its digest is on chain and announced
    assert opened[:12] not in record
    assert occurrences(opened, record) == 0


def test_no_model_travels_unwrapped(witnessed_round: WitnessedRound, record: bytes) -> None:
    """M0, the candidate and the approved model: two models in a row would tell the opened sum."""
    models = witnessed_round.models()
    assert len(models) == 2
    for model in models:
        assert sha256(model).encode() in record
        flat = tensors.flatten(tensors.from_bytes(model, task.manifest))
        assert occurrences(flat.tobytes(), record) == 0
        assert model[8:72] not in record  # the beginning of its safetensors header


def test_every_agent_runs_the_approved_model_all_the_same(witnessed_round: WitnessedRound) -> None:
    before, approved = witnessed_round.models()
    for agent in AGENTS:
        kept = [path.read_bytes() for path in (witnessed_round.folder / agent / "models").iterdir()]
        assert sorted(kept) == sorted([before, approved])  # the one before, to go back to without a download


def test_frames_are_handed_out_to_nobody_before_the_list_is_closed(witnessed_round: WitnessedRound) -> None:
    """A validator with its real key asked for each frame as soon as it was committed to."""
    of = witnessed_round.topics
    asked, roster, chunks = [], 0, []
    for number, message in enumerate(witnessed_round.messages):
        if message.topic == of.roster:
            roster = number
        for address in (witnessed_round.addresses[agent] for agent in AGENTS):
            if message.topic == of.fetch(address, witnessed_round.addresses["validator-1"]) and not roster:
                asked.append(address)
            if message.topic.startswith(of.chunk(address, "")):
                chunks.append(number)
    assert set(asked) == {witnessed_round.addresses[agent] for agent in AGENTS}
    assert roster
    assert min(chunks) > roster


def test_agent_that_asks_for_anothers_frame_is_refused(witnessed_round: WitnessedRound) -> None:
    assert witnessed_round.refused_fetches > 0


def test_nonsense_in_an_agents_name_costs_it_nothing(witnessed_round: WitnessedRound) -> None:
    """The coordinator tells the agent what it refused in its name; the agent goes on, and is in the sum."""
    for agent in AGENTS:
        topic = witnessed_round.topics.receipt(witnessed_round.addresses[agent])
        heard = [m.payload[HEADER_BYTES:] for m in witnessed_round.messages if m.topic == topic]
        receipts = [decode(Receipt, body) for body in heard]
        assert {(receipt.outcome, receipt.reason) for receipt in receipts} == {
            ("refused", Reason.BAD_SIGNATURE),
            ("accepted", ""),
            ("included", ""),
        }


def test_no_payload_names_a_folder_of_this_machine(witnessed_round: WitnessedRound, record: bytes) -> None:
    assert str(Path(witnessed_round.folder)).encode() not in record
