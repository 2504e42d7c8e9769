"""The schemes that `benchmarks.sealing` measures, each played for one round behind one Protocol.

NVFlare's row is its defaults, played with TenSEAL as its CKKS builder does: `ckks_vector`, degree 8192, moduli
[60, 40, 40], scale 2^40, symmetric, weights applied by the client, the whole context with every update. It gets one
flat vector; NVFlare itself makes one ciphertext of each tensor and pays more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.frames import OpenedSum
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import KeyTotal, members_digest, parts_of, read_letter, sign_letter
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.onetime.plan import RING_DEGREE
from gemel.sealing.onetime.sealer import OneTimeSealer
from gemel.sealing.onetime.summer import OneTimeSummer
from gemel.sealing.opener import Opener
from gemel.sealing.packing import Integers, largest_value, quantise
from gemel.sealing.ports import Member
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire.boxes import box_key
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.identity import Identity
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector
from gemel.wire.types import NO_ADDRESS, NO_DIGEST, sha256

CLIP = 0.1
CAP = 1000

Doubles: TypeAlias = NDArray[np.float64]
SchemeName = Literal["bfv-packed", "ckks"]


class Size(NamedTuple):
    """How large the model, how many the agents."""

    parameters: int
    contributors: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """From `500000x10`."""
        parameters, _, contributors = text.partition("x")
        return cls(int(parameters), int(contributors))


def update_of(agent: int, parameters: int) -> Vector:
    """One agent's update: the same in every scheme."""
    return (np.random.default_rng(agent).standard_normal(parameters) * 0.02).astype(np.float32)


class Sent(NamedTuple):
    """What one agent hands over."""

    body: bytes
    beside_bytes: int  # what travels beside the body
    level: int = 1  # what the coordinator multiplies the ciphertext by


class Scheme(Protocol):
    """One round of one scheme."""

    name: str
    bits: int
    levels: int
    fetched_bytes: int  # by each agent, once a round

    def seal(self, agent: int, update: Vector) -> Sent:
        """What an agent does."""
        ...

    def expected(self, sent: Sent, update: Vector) -> Integers | Doubles:
        """What this update should add to the sum."""
        ...

    def add(self, sent: Sent) -> None:
        """What the coordinator does with one update, checks included."""
        ...

    def open(self, contributors: int) -> Integers | Doubles:
        """Close the sum and open it, as whoever may."""
        ...


class KeyHeld:
    """A scheme whose round key a custodian holds: the default, BFV, several integers in a slot, or CKKS.

    With levels, each update counts as 1, 2, ... up to so many, in turn.
    """

    def __init__(self, name: SchemeName, size: Size, bits: int, levels: int = 1) -> None:
        self.name: str = name
        self.bits, self.levels = bits, levels
        self._size = size
        self._policy = SealingPolicy(name, bits, CLIP, size.contributors, CAP, levels)
        opener: type[Opener | CkksOpener] = CkksOpener if name == "ckks" else Opener
        self._opener = opener.create(self._policy, size.parameters)
        context = self._opener.public_context()
        self.fetched_bytes = len(context)
        self._sealer = sealer_of(context, self._policy, size.parameters, NO_ADDRESS)
        self._summer = summer_of(context, self._policy, size.parameters)
        self._counted = 0
        self._zeros = np.zeros(size.parameters, np.float32)

    def seal(self, agent: int, update: Vector) -> Sent:
        """See Scheme."""
        return Sent(self._sealer.seal(update, CAP, self._zeros).body, HEADER_BYTES, 1 + agent % self.levels)

    def expected(self, sent: Sent, update: Vector) -> Integers | Doubles:
        """See Scheme. CKKS rounds nothing before it seals; in the same unit, steps of an opened sum."""
        if self.name == "ckks":
            step = CLIP / largest_value(self.bits)
            return sent.level * np.clip(update.astype(np.float64), -CLIP, CLIP) / step
        return sent.level * quantise(update, self._zeros, clip=CLIP, bits=self.bits, share=1.0).values

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        self._summer.add(sent.body, sent.level)
        self._counted += sent.level

    def open(self, contributors: int) -> Integers:  # noqa: ARG002  a sum counts levels
        """See Scheme."""
        opened = self._opener.open(self._summer.sum(), self._counted)
        return OpenedSum.parse(opened, self._policy, self._size.parameters).sums


class OneTime:
    """One-time keys with shares to three custodians. Opening is two custodians' work on letters, and the sum's."""

    name, levels = "one-time-keys", 1

    def __init__(self, size: Size, bits: int) -> None:
        """One round: agents and custodians are made as they are needed."""
        self.bits = bits
        self._size = size
        self._policy = SealingPolicy("one-time-keys", bits, CLIP, size.contributors, CAP)
        self._secrets = [bytes([number]) * 32 for number in (1, 2, 3)]
        self._facts = round_context(size.parameters, self._secrets)
        self._context = self._facts.pack()
        self.fetched_bytes = len(self._context)
        self._summer = OneTimeSummer(self._context, self._policy, size.parameters)
        self._zeros = np.zeros(size.parameters, np.float32)
        self._members: list[Member] = []
        self._letters: list[tuple[bytes, ...]] = []

    def seal(self, agent: int, update: Vector) -> Sent:
        """See Scheme. Signing the letters is part of it."""
        identity = Identity((agent + 1).to_bytes(32, "big"))
        sealer = OneTimeSealer(self._context, self._policy, self._size.parameters, identity.address)
        sealed = sealer.seal(update, CAP, self._zeros)
        letters = tuple(sign_letter(letter, identity, self._facts) for letter in sealed.letters)
        self._members.append(Member(identity.address, sha256(sealed.body)))
        self._letters.append(letters)
        return Sent(sealed.body, HEADER_BYTES + sum(map(len, letters)))

    def expected(self, sent: Sent, update: Vector) -> Integers:  # noqa: ARG002  every update counts once
        """See Scheme."""
        return quantise(update, self._zeros, clip=CLIP, bits=self.bits, share=1.0).values

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        self._summer.add(sent.body)

    def open(self, contributors: int) -> Integers:
        """See Scheme."""
        key_sum = OneTimeOpener.from_totals(self._context, self._policy, [self._total(0), self._total(1)])
        opened = key_sum.open(self._summer.sum(), contributors)
        return OpenedSum.parse(opened, self._policy, self._size.parameters).sums

    def _total(self, index: int) -> bytes:
        """What one custodian gives out. Two agents are below its minimum, so that row sums the shares itself."""
        shares = [read_letter(letters[index], self._facts, index, self._secrets[index]) for letters in self._letters]
        parts = {part: sum((share.parts[part] for share in shares), NO_PART) for part in parts_of(index, 3)}
        count, members = len(self._members), members_digest(self._members)
        return KeyTotal(index, 3, count, self._facts.digest, members, parts).pack()


NO_PART = np.zeros(RING_DEGREE, np.uint16)


def round_context(parameters: int, secrets: Sequence[bytes]) -> RoundContext:
    """A round's facts, with custodians who have these secrets."""
    keys = tuple(box_key(secret) for secret in secrets)
    return RoundContext(31337, "0x" + "ab" * 20, NO_DIGEST, 1, NO_DIGEST, NO_DIGEST, parameters, keys)


class NVFlare:
    """NVFlare's homomorphic defaults. Its context, secret key left out, travels with every update."""

    name, bits, levels = "nvflare-ckks", 32, 1

    def __init__(self) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=SYMMETRIC
        )
        self._context.global_scale = 2.0**40
        public = self._context.serialize(save_secret_key=False)
        self._server = ts.context_from(public)
        self._beside = len(public)
        self._total: ts.CKKSVector | None = None
        self.fetched_bytes = 0

    def seal(self, agent: int, update: Vector) -> Sent:  # noqa: ARG002  as above
        """See Scheme."""
        body = ts.ckks_vector(self._context, update.astype(np.float64)).serialize()
        return Sent(bytes(body), self._beside)

    def expected(self, sent: Sent, update: Vector) -> Doubles:  # noqa: ARG002  every update counts once
        """See Scheme."""
        return update.astype(np.float64)

    def add(self, sent: Sent) -> None:
        """See Scheme."""
        vector = ts.ckks_vector_from(self._server, sent.body)
        self._total = vector if self._total is None else self._total + vector

    def open(self, contributors: int) -> Doubles:  # noqa: ARG002  CKKS keeps no count
        """See Scheme."""
        assert self._total is not None
        total = ts.ckks_vector_from(self._context, self._total.serialize())
        return np.array(total.decrypt(), np.float64)


SYMMETRIC = ts.ENCRYPTION_TYPE.SYMMETRIC
