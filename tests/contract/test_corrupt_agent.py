"""An agent that seals dishonestly reads the round's secret key out of the opened sum (docs/security.md).

Shortened: the attacker knows one chunk of the honest sum (a frozen layer, all zero). It adds q/t to the c1 of its own
frame there, so the sum opens to the key itself: c0 + c1 · s gains (q/t) · s, the message gains s.
"""

import numpy as np
import pytest
from tenseal import sealapi

from gemel.errors import Malformed
from gemel.sealing.bfv import load_context
from gemel.sealing.budget import MODULUS, RING_DEGREE, budget_of
from gemel.sealing.frames import OpenedSum, body_words, check_body, pack_body
from gemel.sealing.opener import Opener
from gemel.sealing.packing import quantise
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy

CAP = 100


class Round:
    """Two honest agents and a corrupt one; `contributors` is what the policy allows."""

    def __init__(self, contributors: int) -> None:
        self.policy = SealingPolicy("bfv-packed", 4, 0.1, contributors, CAP)
        lanes = budget_of(self.policy, 1).lanes
        self.parameters = 2 * lanes * RING_DEGREE
        self.budget = budget_of(self.policy, self.parameters)
        self.opener = Opener.create(self.policy, self.parameters)
        context = self.opener.public_context()
        self.context = load_context(context)
        sealer = Sealer(context, self.policy, self.parameters)
        zeros = np.zeros(self.parameters, np.float32)
        rng = np.random.default_rng(5)
        self.updates = [zeros.copy(), zeros.copy()]
        for update in self.updates:
            update[: self.parameters // 2] = rng.standard_normal(self.parameters // 2) * 0.03
        self.honest = [sealer.seal(update, CAP, zeros).body for update in self.updates]

        words = list(body_words(sealer.seal(zeros, CAP, zeros).body))
        words[1][1, 0] = (int(words[1][1, 0]) + MODULUS // self.budget.plain_modulus) % MODULUS
        self.corrupt = pack_body(sealer._shape, words)
        check_body(self.corrupt, sealer._shape)  # a ciphertext like any other: no form gives it away

        summer = Summer(context, self.policy, self.parameters)
        for frame in (*self.honest, self.corrupt):
            summer.add(frame)
        self.sum = summer.sum()


def key_in(slots: np.ndarray, context, t: int) -> np.ndarray:
    """The polynomial (centred) whose slots these are."""
    plain = sealapi.Plaintext()
    sealapi.BatchEncoder(context.seal_context().data).encode([int(x) for x in slots], plain)
    coefficients = np.array([plain[i] for i in range(plain.coeff_count())], np.int64)
    return np.where(coefficients > t // 2, coefficients - t, coefficients)


def negacyclic(words: np.ndarray, key: np.ndarray) -> np.ndarray:
    """words · key mod (x^N + 1), mod q, by halves of 27 bits so that 64 bits hold every sum."""
    parts = [np.convolve(part.astype(np.int64), key) for part in (words & 0x7FFFFFF, words >> 27)]
    whole = [part[:RING_DEGREE] - np.append(part[RING_DEGREE:], 0) for part in parts]
    return (whole[0].astype(object) + whole[1].astype(object) * 2**27) % MODULUS


def test_corrupt_agent_reads_the_key_of_its_round_and_opens_another_agents_frame():
    played = Round(contributors=3)
    t = played.budget.plain_modulus
    data = played.opener.open(played.sum, 3)
    opened = OpenedSum.parse(data, played.policy, played.parameters)

    key = key_in(played.budget.packing.pack(opened.sums)[1], played.context, t)
    assert key.size == RING_DEGREE
    assert set(np.unique(key)) == {-1, 0, 1}  # a ternary secret, every coefficient of it

    c0, c1 = next(body_words(played.honest[0]))
    phase = (c0.astype(object) + negacyclic(c1, key)) % MODULUS
    scaled = [(int(value) * t + MODULUS // 2) // MODULUS % t for value in phase]
    terms = [f"{value:X}x^{power}" for power, value in enumerate(scaled) if value]
    message = sealapi.Plaintext(" + ".join(reversed(terms)))
    slots = np.array(sealapi.BatchEncoder(played.context.seal_context().data).decode_int64(message))
    stolen = played.budget.packing.unpack(slots[None, :], played.parameters // 2)
    zeros = np.zeros(played.parameters, np.float32)
    secret = quantise(played.updates[0], zeros, clip=0.1, bits=4, share=1.0).values[: played.parameters // 2]
    assert np.array_equal(stolen, secret)


@pytest.mark.parametrize("contributors", [4, 10])
def test_key_does_not_fit_into_a_sum_of_fewer_contributors_than_the_policy_allows(contributors):
    played = Round(contributors)
    with pytest.raises(Malformed, match="outside"):
        played.opener.open(played.sum, 3)
