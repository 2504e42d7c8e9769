"""A round under one-time keys, with everybody in one process."""

import secrets
from collections.abc import Sequence

import numpy as np

from gemel.sealing.frames import OpenedSum
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.custodian import KeyCustodian
from gemel.sealing.onetime.letters import sign_letter
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.onetime.plan import RING_DEGREE, plan_of
from gemel.sealing.onetime.ring import gaussian
from gemel.sealing.onetime.sealer import OneTimeSealer
from gemel.sealing.onetime.summer import OneTimeSummer
from gemel.sealing.packing import quantise
from gemel.sealing.ports import Member, Sealed
from gemel.wire.boxes import box_key
from gemel.wire.identity import Identity
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import sha256

CAP, CLIP = 100, 0.1
BOX_SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]


class ChainWitness:
    """Remembers the first list of a round, as a contract would."""

    def __init__(self) -> None:
        self.lists: dict[str, str] = {}

    def first(self, context: str, members: str) -> str:
        return self.lists.setdefault(context, members)


class OneTimeRound:
    """Agents and custodians of one round."""

    def __init__(
        self, agents: int = 3, *, parameters: int = 5000, bits: int = 4, custodians: int = 3, number: int = 7
    ):
        self.policy = SealingPolicy("one-time-keys", bits, CLIP, max(agents, 3), CAP)
        self.parameters, self.plan = parameters, plan_of(self.policy, parameters)
        self.identities = [Identity(bytes([0] * 30) + (100 + agent).to_bytes(2, "big")) for agent in range(agents)]
        self.facts = RoundContext(
            chain_id=31337,
            registry="0x" + "ab" * 20,
            task="11" * 32,
            round=number,
            base="22" * 32,
            policy="33" * 32,
            parameters=parameters,
            custodians=tuple(box_key(secret) for secret in BOX_SECRETS[:custodians]),
        )
        self.context = self.facts.pack()
        self.witness = ChainWitness()
        self.custodians = [self.custodian(index) for index in range(custodians)]
        rng = np.random.default_rng(agents)
        self.updates = [(rng.standard_normal(parameters) * 0.03).astype(np.float32) for _ in range(agents)]
        self.zeros = np.zeros(parameters, np.float32)

    def custodian(self, index: int, **options) -> KeyCustodian:
        """A custodian as it starts: without letters."""
        defaults = {"registered": {i.address for i in self.identities}, "minimum": 3, "witness": self.witness}
        return KeyCustodian(self.context, BOX_SECRETS[index], **(defaults | options))

    def seal(self, agent: int) -> Sealed:
        sealer = OneTimeSealer(self.context, self.policy, self.parameters, self.identities[agent].address)
        return sealer.seal(self.updates[agent], CAP, self.zeros)

    def seal_and_keep_the_key(self, agent: int) -> tuple[Sealed, np.ndarray]:
        """As a dishonest agent does: the key is the first thing that a sealer draws."""
        draws: list[bytes] = []

        def remembered(count: int) -> bytes:
            draws.append(secrets.token_bytes(count))
            return draws[-1]

        address = self.identities[agent].address
        sealed = OneTimeSealer(self.context, self.policy, self.parameters, address, remembered).seal(
            self.updates[agent], CAP, self.zeros
        )
        return sealed, gaussian(RING_DEGREE, lambda _: draws[0])

    def signed(self, agent: int, sealed: Sealed) -> list[bytes]:
        return [sign_letter(letter, self.identities[agent], self.facts) for letter in sealed.letters]

    def deliver(self, letters: Sequence[bytes]) -> None:
        for custodian, letter in zip(self.custodians, letters, strict=True):
            custodian.receive(letter)

    def member(self, agent: int, body: bytes) -> Member:
        return Member(self.identities[agent].address, sha256(body))

    def sum_of(self, bodies: Sequence[bytes]) -> bytes:
        summer = OneTimeSummer(self.context, self.policy, self.parameters)
        for body in bodies:
            summer.add(body)
        return summer.sum()

    def opener(self, members: Sequence[Member], custodians: Sequence[int] = (0, 1)) -> OneTimeOpener:
        totals = [self.custodians[index].total(members) for index in custodians if index < len(self.custodians)]
        return OneTimeOpener.from_totals(self.context, self.policy, totals)

    def sums(self, opened: bytes) -> np.ndarray:
        return OpenedSum.parse(opened, self.policy, self.parameters).sums

    def quantised(self, agent: int) -> np.ndarray:
        return quantise(self.updates[agent], self.zeros, clip=CLIP, bits=self.policy.bits, share=1.0).values
