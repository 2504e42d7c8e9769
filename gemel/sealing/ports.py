"""The three ports of sealing, split by key possession: who can seal cannot open, who adds cannot either.

`policy.scheme` selects what stands behind them (schemes.py): "bfv-packed", or "one-time-keys", whose custodians have
a port of their own because what they hold never opens anything alone. Everything here is synchronous CPU work:
services call it through gemel.sealing.work in a worker process, because TenSEAL holds the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gemel.wire.tensors import Vector
from gemel.wire.types import Address, Digest, sha256

Part = NDArray[np.uint16]  # of a one-time key: 2048 coefficients modulo 2^16
Randomness = Callable[[int], bytes]  # so many bytes; the operating system's, but in test vectors


class Member(NamedTuple):
    """Who is in a sum, with which sealed body (its SHA-256)."""

    agent: Address
    update: Digest


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed update, and the rounding residual to keep if (and only if) the update enters a model."""

    body: bytes
    residual: Vector
    letters: tuple[bytes, ...] = ()  # one-time keys: what goes to each custodian, for the agent to sign


class SealerPort(Protocol):
    """An agent's side: the round's public context."""

    def seal(self, update: Vector, weight: int, residual: Vector) -> Sealed:
        """Seal `update` (float32, one value a parameter) with weight n_k.

        `residual` is what the last sealed update left over (zeros at first). Raises Refused(overweight) for a weight
        outside 1..weight_cap, ValueError for another length or values that are not finite.
        """
        ...


class SummerPort(Protocol):
    """The coordinator's and the validators' side: the public context, and no way to open anything."""

    def add(self, body: bytes, level: int = 1) -> None:
        """Add a sealed update whole, `level` times, or refuse it (Refused with its reason) and stay as before.

        ValueError for a level outside 1..`policy.levels`.
        """
        ...

    def sum(self) -> bytes:
        """The sealed sum. The same updates at the same levels give the same bytes, in any order.

        ValueError before the first `add`.
        """
        ...


class OpenerPort(Protocol):
    """The custodian's side: the secret key of one round."""

    def public_context(self) -> bytes:
        """What agents seal with; named by its SHA-256 in every sealed body."""
        ...

    def open(self, sum_body: bytes, contributors: int) -> bytes:
        """The opened sum's bytes (frames.OpenedSum). Refuses single updates and whatever was not sealed for this key.

        `contributors` is the sum of the levels: an update of level 3 counts as three contributors.
        Whether a sum may be opened at all (confirmed on chain, enough owners, once) is for the custodian to decide.
        """
        ...

    def to_bytes(self) -> bytes:
        """The secret, so that a custodian survives a restart within the round: for a file of mode 0600."""
        ...

    def destroy(self) -> None:
        """Forget the key; nothing opens afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """One-time keys: what a custodian learns from an agent's letter, the parts of a key that it holds."""

    member: Member
    parts: Mapping[int, Part]

    @property
    def part_digests(self) -> tuple[Digest, ...]:
        """SHA-256 of each part, in their order: shows whether two custodians got the same, and not what."""
        return tuple(sha256(self.parts[part].astype("<u2").tobytes()) for part in sorted(self.parts))


class KeyCustodianPort(Protocol):
    """A custodian's side under one-time keys: shares of the agents' keys, given out only as one sum."""

    def receive(self, letter: bytes) -> Share:
        """Keep an agent's signed letter, or refuse it (Refused with its reason). What it holds of that agent now."""
        ...

    def total(self, members: Sequence[Member]) -> bytes:
        """The total of the shares of exactly these members (onetime/letters.KeyTotal); for one list a round, ever."""
        ...

    def destroy(self) -> None:
        """Forget the shares and the key that opened them."""
        ...


class Witness(Protocol):
    """Something outside the custodian's reach that remembers which list of a round was opened.

    It must be one and the same for all custodians, and nobody may be able to set it back: a contract, not a file.
    """

    def first(self, context: Digest, members: Digest) -> Digest:
        """Durably record `members` for `context` unless something stands there already; what stands afterwards."""
        ...
