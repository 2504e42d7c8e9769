"""Hostile bytes by the thousand: `python -m tests.support.mutations KIND COUNT SEED`, for a process that may die.

Prints how many mutations were refused, and how many were taken for another, equally well-formed thing. Anything
else (a mutation taken for the original, an exception that is no refusal) ends it with a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from gemel.errors import PeerError
from gemel.sealing.ckks import frames as ckks
from gemel.sealing.ckks.plan import plan_of
from gemel.sealing.encrypted_training.frames import Kind as TrainingKind
from gemel.sealing.encrypted_training.frames import Shape
from gemel.sealing.encrypted_training.plan import HeadPlan
from gemel.sealing.encrypted_training.refresher import Refresher
from gemel.sealing.encrypted_training.trainer import Trainer, seal_rows
from gemel.sealing.frames import BodyKind, BodyShape, OpenedSum, body_words, check_body, pack_body
from gemel.sealing.onetime import frames as one_time
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import KeyTotal, read_letter
from gemel.sealing.opener import Opener
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Expected, Kind, open_envelope, pack, sign
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import sha256
from tests.support.onetime import BOX_SECRETS, CAP, OneTimeRound
from tests.support.sealing import Plant, policy_of, zeros


class Signed(Exception):
    """A mutation of something signed was taken."""


def _flip(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at] ^= 1 << int(rng.integers(8))


def _byte(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at] = int(rng.integers(256))


def _count(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")


def _number(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at : at + 8] = rng.bytes(8)


def _cut(data: bytearray, at: int, rng: np.random.Generator) -> None:
    del data[at:]


def _grow(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data += rng.bytes(int(rng.integers(1, 300)))


def _leave_out(data: bytearray, at: int, rng: np.random.Generator) -> None:
    del data[at : at + int(rng.integers(1, 64))]


def _repeat(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at:at] = data[: int(rng.integers(1, 64))]


def _blank(data: bytearray, at: int, rng: np.random.Generator) -> None:
    data[at : at + 64] = bytes(min(64, len(data) - at))


_WAYS = (_flip, _byte, _count, _number, _cut, _grow, _leave_out, _repeat, _blank)


def mutations(honest: bytes, other: bytes, count: int, seed: int) -> Iterator[bytes]:
    """So many byte strings, none of them `honest` or `other`; one in ten is spliced from the two."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        data, way = bytearray(honest), made % (len(_WAYS) + 1)
        span = len(data) if rng.integers(2) else min(len(data), 300)  # half the time where all the fields are
        at = int(rng.integers(span))
        if way < len(_WAYS):
            _WAYS[way](data, at, rng)
        else:
            data[at:] = other[at:]
        if bytes(data) not in (honest, other):
            made += 1
            yield bytes(data)


class Packed:
    """The default scheme's forms."""

    def __init__(self) -> None:
        self.policy, self.parameters = SealingPolicy("bfv-packed", 4, 0.1, 10, CAP), 300
        self.opener = Opener.create(self.policy, self.parameters)
        self.context = self.opener.public_context()
        zeros = np.zeros(self.parameters, np.float32)
        sealer = Sealer(self.context, self.policy, self.parameters)
        self.bodies = [sealer.seal(zeros, CAP, zeros).body for _ in range(3)]
        self.shape = sealer._shape
        self.total, self.other_total = (self.sum_of(bodies) for bodies in (self.bodies, self.bodies[:1] * 3))
        self.reads = 0

    def sum_of(self, bodies: list[bytes]) -> bytes:
        summer = Summer(self.context, self.policy, self.parameters)
        for body in bodies:
            summer.add(body)
        return summer.sum()

    def read_body(self, data: bytes) -> bytes:
        check_body(data, self.shape)
        if self.sampled():
            self.sum_of([data])  # SEAL takes every one that passed
        return pack_body(self.shape, body_words(data))

    def sampled(self) -> bool:
        """SEAL takes milliseconds: it sees one in twenty of those that pass."""
        self.reads += 1
        return self.reads % 20 == 0

    def read_sum(self, data: bytes) -> bytes:
        shape = BodyShape(self.shape.budget, self.shape.context, BodyKind.SUM, 3)
        check_body(data, shape)
        if self.sampled():
            self.opener.open(data, 3)
        return pack_body(shape, body_words(data))

    def read_opened(self, data: bytes) -> bytes:
        return OpenedSum.parse(data, self.policy, self.parameters).pack(self.policy)


class Ckks:
    """The third scheme's forms."""

    def __init__(self) -> None:
        self.plant = Plant(policy_of("ckks", 4))
        self.bodies = [self.plant.seal(zeros()) for _ in range(3)]
        self.total, self.other_total = (self.plant.sum_of(bodies) for bodies in (self.bodies, self.bodies[:1] * 3))
        self.reads = 0

    def read_body(self, data: bytes) -> bytes:
        return self._read(data, BodyKind.UPDATE, 1)

    def read_sum(self, data: bytes) -> bytes:
        return self._read(data, BodyKind.SUM, 3)

    def _read(self, data: bytes, kind: BodyKind, contributors: int) -> bytes:
        plan = plan_of(self.plant.policy, self.plant.parameters)
        head = ckks.head_of(plan, sha256(self.plant.context), kind, contributors)
        ckks.check_body(data, plan, head)
        self.reads += 1
        if self.reads % 20 == 0:  # SEAL takes milliseconds, and sees one in twenty of those that pass
            self.plant.opener.open(data if kind == BodyKind.SUM else self.plant.sum_of([data]), contributors)
        return ckks.pack_body(head, ckks.body_words(data))

    def read_opened(self, data: bytes) -> bytes:
        return OpenedSum.parse(data, self.plant.policy, self.plant.parameters).pack(self.plant.policy)


class OneTime:
    """The second scheme's forms."""

    def __init__(self) -> None:
        self.round = OneTimeRound(3, parameters=300)
        sealed = [self.round.seal(agent) for agent in range(3)]
        self.bodies = [each.body for each in sealed]
        self.letters = [self.round.signed(agent, each) for agent, each in enumerate(sealed)]
        for each in self.letters:
            self.round.deliver(each)
        members = [self.round.member(agent, body) for agent, body in enumerate(self.bodies)]
        self.totals = [custodian.total(members) for custodian in self.round.custodians]
        self.opener = self.round.opener(members)
        self.total, self.other_total = (self.round.sum_of(bodies) for bodies in (self.bodies, self.bodies[:1] * 3))

    def read_body(self, data: bytes) -> bytes:
        self.round.sum_of([data])
        head = one_time.head_of(self.round.plan, self.round.facts.digest, BodyKind.UPDATE, 1)
        parts = one_time.planes(data, head)
        return one_time.pack_body(head, one_time.join_planes(parts, head.chunk_bytes))

    def read_sum(self, data: bytes) -> bytes:
        head = one_time.check_body(data, self.round.plan, self.round.facts.digest, BodyKind.SUM, 3)
        self.opener.open(data, 3)
        return one_time.pack_body(head, one_time.join_planes(one_time.planes(data, head), head.chunk_bytes))

    def read_letter(self, data: bytes) -> bytes:
        read_letter(data, self.round.facts, 0, BOX_SECRETS[0])
        raise Signed


class Training:
    """What a trainer and the custodian send each other."""

    def __init__(self) -> None:
        self.plan = HeadPlan(features=1, outputs=1, rows=4, steps=1, rate=0.5)
        self.refresher, self.reads = Refresher.create(), 0
        self.context = sha256(self.refresher.public_context())
        self.trainer = Trainer(self.refresher.public_context(), self.plan, np.zeros((1, 1)))
        rows = seal_rows(self.trainer.context, self.plan, np.ones((4, 1)), np.ones((4, 1)))
        self.requests = [self.trainer.request(rows) for _ in range(2)]
        self.answers = [self.refresher.refresh(self.plan, request) for request in self.requests]
        self.trainer.accept(self.answers[1])
        self.releases = [self.trainer.release(100.0)[0] for _ in range(2)]

    def read(self, data: bytes, kind: TrainingKind, use: Callable[[bytes], object]) -> bytes:
        shape = Shape(self.plan, self.context, kind)
        words = shape.parse(data)
        self.reads += 1
        if self.reads % 200 == 0:  # the library sees one in two hundred of those that pass
            use(data)
        return shape.pack(words)

    def read_request(self, data: bytes) -> bytes:
        return self.read(data, TrainingKind.REQUEST, lambda passed: self.refresher.refresh(self.plan, passed))

    def read_answer(self, data: bytes) -> bytes:
        return self.read(data, TrainingKind.ANSWER, self.trainer.accept)

    def read_release(self, data: bytes) -> bytes:
        return self.read(data, TrainingKind.RELEASE, lambda passed: self.refresher.round_off(self.plan, passed))


class Frames:
    """Signed headers in front of bodies: what travels."""

    def __init__(self) -> None:
        self.identity = OneTimeRound(1, parameters=1).identities[0]
        self.domain = Domain(31337, "0x" + "ab" * 20)

    def frame(self, body: bytes) -> bytes:
        return pack(sign(self.identity, self.domain, "task", Kind.UPDATE, body, issued_at_ms=1, round=1, weight=5))

    def read(self, data: bytes) -> bytes:
        expected = Expected(self.domain, "task", Kind.UPDATE, {self.identity.address}, 10**9, round=1)
        open_envelope(data, expected)
        raise Signed


def target(kind: str) -> tuple[bytes, bytes, Callable[[bytes], bytes]]:
    """An honest example, another one to splice with, and how a receiver reads it."""
    if kind.endswith("frame"):
        bodies = {"packed-frame": Packed, "ckks-frame": Ckks, "one-time-frame": OneTime}[kind]().bodies
        frames = Frames()
        return frames.frame(bodies[0]), frames.frame(bodies[1]), frames.read
    if kind.startswith("packed"):
        packed = Packed()
        opened = packed.opener.open(packed.total, 3)
        return {
            "packed-update": (packed.bodies[0], packed.bodies[1], packed.read_body),
            "packed-sum": (packed.total, packed.other_total, packed.read_sum),
            "packed-opened-sum": (opened, opened[::-1], packed.read_opened),
        }[kind]
    if kind.startswith("ckks"):
        real = Ckks()
        opened = real.plant.opener.open(real.total, 3)
        return {
            "ckks-update": (real.bodies[0], real.bodies[1], real.read_body),
            "ckks-sum": (real.total, real.other_total, real.read_sum),
            "ckks-opened-sum": (opened, opened[::-1], real.read_opened),
        }[kind]
    if kind.startswith("training"):
        training = Training()
        return {
            "training-request": (*training.requests, training.read_request),
            "training-answer": (*training.answers, training.read_answer),
            "training-release": (*training.releases, training.read_release),
        }[kind]
    one = OneTime()
    context = one.round.context
    return {
        "one-time-update": (one.bodies[0], one.bodies[1], one.read_body),
        "one-time-sum": (one.total, one.other_total, one.read_sum),
        "one-time-letter": (one.letters[0][0], one.letters[1][0], one.read_letter),
        "one-time-total": (one.totals[0], one.totals[1], lambda data: KeyTotal.parse(data).pack()),
        "one-time-context": (context, context[::-1], lambda data: RoundContext.parse(data).pack()),
    }[kind]


KINDS = (
    *("packed-frame", "packed-update", "packed-sum", "packed-opened-sum"),
    *("ckks-frame", "ckks-update", "ckks-sum", "ckks-opened-sum"),
    *("one-time-frame", "one-time-update", "one-time-sum", "one-time-letter", "one-time-total", "one-time-context"),
    *("training-request", "training-answer", "training-release"),
)
SIGNED = {
    "packed-frame",
    "ckks-frame",
    "one-time-frame",
    "one-time-letter",
}  # of these no mutation is taken for anything


def main(kind: str, count: int, seed: int) -> None:
    """Refused, and taken for something else."""
    honest, other, read = target(kind)
    refused = others = 0
    for data in mutations(honest, other, count, seed):
        try:
            understood = read(data)
        except PeerError:
            refused += 1
        else:
            assert understood == data, "two byte strings with one meaning"
            assert sha256(data) != sha256(honest)
            others += 1
    print(refused, others)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
