"""Keeps shares of the agents' one-time keys and gives out their sum, for one list of members a round, ever.

Only custodian/ imports this module. What must not be set back stands outside: the Witness says which list was opened,
so a custodian restored from any backup gives out the same total again, or nothing. Letters may be stored as they came
(signed, and sealed) and received again after a restart.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from gemel.errors import Refused
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.letters import KeyTotal, members_digest, parts_of, read_letter
from gemel.sealing.onetime.plan import RING_DEGREE
from gemel.sealing.ports import Member, Share, Witness
from gemel.wire.boxes import box_key
from gemel.wire.reasons import Reason
from gemel.wire.types import Address

MINIMUM = 3  # of two members each could subtract its own key


class KeyCustodian:
    """Implements KeyCustodianPort."""

    def __init__(
        self,
        context: bytes,
        secret: bytes,
        *,
        registered: Container[Address],
        minimum: int,
        witness: Witness,
    ) -> None:
        """`secret` is the Curve25519 secret behind one of the context's keys, made for this round alone.

        Raises Malformed for a context that is none, ValueError for a secret that is not one of its custodians', or
        a minimum below three.
        """
        if minimum < MINIMUM:
            raise ValueError(f"at least {MINIMUM} members, got {minimum}")
        self._context = RoundContext.parse(context)
        self._custodian = self._context.custodians.index(box_key(secret))
        self._secret: bytes | None = secret
        self._registered, self._minimum, self._witness = registered, minimum, witness
        self._shares: dict[Address, Share] = {}

    def receive(self, letter: bytes) -> Share:
        """See KeyCustodianPort. An agent's first letter of the round stands; the same again changes nothing.

        Raises Refused as `read_letter`, and: unregistered, duplicate (another letter), stale_round (destroyed).
        """
        if self._secret is None:
            raise Refused(Reason.STALE_ROUND, "this round's shares are destroyed")
        share = read_letter(letter, self._context, self._custodian, self._secret)
        agent = share.member.agent
        if agent not in self._registered:
            raise Refused(Reason.UNREGISTERED, agent)
        known = self._shares.setdefault(agent, share)
        if known.member != share.member or any(
            not np.array_equal(known.parts[part], share.parts[part]) for part in known.parts
        ):
            raise Refused(Reason.DUPLICATE, f"{agent} has sent another key")
        return known

    def total(self, members: Sequence[Member]) -> bytes:
        """See KeyCustodianPort. Asks the witness before a byte is given out.

        Raises Refused: too_few_owners, duplicate (an agent twice, or another list was opened), missing (no letter of
        a member for this very body), stale_round (destroyed).
        """
        if self._secret is None:
            raise Refused(Reason.STALE_ROUND, "this round's shares are destroyed")
        agents = {member.agent for member in members}
        if len(agents) != len(members):
            raise Refused(Reason.DUPLICATE, "an agent stands twice in the list")
        if len(agents) < self._minimum:
            raise Refused(Reason.TOO_FEW_OWNERS, f"{len(agents)} members, {self._minimum} needed")
        for member in members:
            share = self._shares.get(member.agent)
            if share is None or share.member != member:
                raise Refused(Reason.MISSING, f"no key of {member.agent} for {member.update[:12]}")
        digest = members_digest(members)
        if self._witness.first(self._context.digest, digest) != digest:
            raise Refused(Reason.DUPLICATE, "another list of this round was opened")
        count = len(self._context.custodians)
        parts = {}
        for part in parts_of(self._custodian, count):
            summed = np.zeros(RING_DEGREE, np.uint16)
            for agent in agents:
                summed = summed + self._shares[agent].parts[part]
            parts[part] = summed
        return KeyTotal(self._custodian, count, len(members), self._context.digest, digest, parts).pack()

    def destroy(self) -> None:
        """See KeyCustodianPort. Python's copies of the bytes are only dropped."""
        self._secret = None
        self._shares.clear()
