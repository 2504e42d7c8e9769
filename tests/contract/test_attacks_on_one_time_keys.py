"""What works against a careless version of one-time keys, played against ours: each must fail here.

Every attack has a control beside it that succeeds where the defence is taken away, so that a failing attack is the
defence's doing and not the test's.
"""

import hashlib

import numpy as np
import pytest

from gemel.errors import Malformed, Refused
from gemel.sealing.frames import BodyKind
from gemel.sealing.onetime import ring
from gemel.sealing.onetime.frames import head_of, join_planes, pack_body, planes
from gemel.sealing.onetime.letters import KeyTotal, join_totals, read_letter, sign_letter, write_letters
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.onetime.plan import MODULUS, RING_DEGREE
from gemel.sealing.packing import Integers
from gemel.wire.reasons import Reason
from tests.support.onetime import BOX_SECRETS, ChainWitness, OneTimeRound


class Played:
    """A round of three whose letters have come in; agent 2 is the attacker and sees every body."""

    def __init__(self, custodians: int = 3) -> None:
        self.round = OneTimeRound(3, custodians=custodians)
        self.sealed = [self.round.seal(agent) for agent in range(3)]
        self.bodies = [sealed.body for sealed in self.sealed]
        self.letters = [self.round.signed(agent, sealed) for agent, sealed in enumerate(self.sealed)]
        self.members = [self.round.member(agent, body) for agent, body in enumerate(self.bodies)]

    def words(self, body: bytes) -> np.ndarray:
        plan = self.round.plan
        head = head_of(plan, self.round.facts.digest, BodyKind.UPDATE, 1)
        return join_planes(planes(body, head), plan.word_bytes) << np.uint64(plan.dropped_bits)

    def body(self, words: np.ndarray) -> bytes:
        plan = self.round.plan
        head = head_of(plan, self.round.facts.digest, BodyKind.UPDATE, 1)
        return pack_body(head, words >> np.uint64(plan.dropped_bits))

    def key_of(self, agent: int, custodians=(0, 1)) -> Integers:
        """An agent's key, as custodians who conspire would put it together."""
        totals = []
        for custodian in custodians:
            letter = self.letters[agent][custodian]
            share = read_letter(letter, self.round.facts, custodian, BOX_SECRETS[custodian])
            count = len(self.round.facts.custodians)
            totals.append(KeyTotal(custodian, count, 1, self.round.facts.digest, "0" * 64, share.parts))
        return join_totals(totals)

    def share_read(self, body: bytes, key: Integers, agent: int) -> float:
        """Which share of an agent's values somebody with this key reads right."""
        plan, words = self.round.plan, self.words(body).copy()
        transformed = ring.transform(ring.residues(key))
        for index in range(plan.polynomials):
            chunk = words[index * RING_DEGREE : (index + 1) * RING_DEGREE]
            element = ring.public_element(self.round.facts.digest, index)
            chunk += ring.transform_back(ring.multiply(element, transformed))[: chunk.size]
        packed = (ring.centred(words % np.uint64(MODULUS)) + plan.delta // 2) // plan.delta
        half = (plan.base**plan.lanes - 1) // 2
        values = plan.packing.unpack(np.clip(packed, -half, half)[None, :], plan.parameters)
        return float((values == self.round.quantised(agent)).mean())


CHANCE = 0.05  # a value read at random is right in far fewer cases


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


def test_control_whoever_has_a_single_key_reads_that_update(played):
    assert played.share_read(played.bodies[0], played.key_of(0), 0) == 1.0
    assert played.share_read(played.bodies[0], played.key_of(1), 0) < CHANCE


# --- mauling --------------------------------------------------------------------------------------


def test_own_minus_somebody_elses_body_does_not_open_the_thirds_update():
    played = Played()
    mauled = played.body((played.words(played.bodies[2]) + MODULUS - played.words(played.bodies[0])) % MODULUS)
    member = played.round.member(2, mauled)
    letters = write_letters(played.round.facts, member, played.key_of(2), lambda n: b"\5" * n)
    signed = [sign_letter(letter, played.round.identities[2], played.round.facts) for letter in letters]
    for delivered in (played.letters[0], played.letters[1], signed):
        played.round.deliver(delivered)
    opener = played.round.opener([*played.members[:2], member])
    with pytest.raises(Malformed, match="not the sum of these keys"):
        opener.open(played.round.sum_of([*played.bodies[:2], mauled]), 3)
    # Nor does what the attacker now knows: the sum of the three keys, and its own.
    key_sum = OneTimeOpener.from_bytes(opener.to_bytes())._key_sum
    for guess in (key_sum, key_sum - played.key_of(2)):
        assert played.share_read(played.bodies[1], guess, 1) < CHANCE


def test_control_with_the_negative_of_the_key_in_its_letter_the_mauled_body_would_open_the_third():
    played = Played()
    mauled = played.body((played.words(played.bodies[2]) + MODULUS - played.words(played.bodies[0])) % MODULUS)
    known = played.key_of(2) - played.key_of(0)  # nobody has the second, but by breaking a sealed box
    opened = OneTimeOpener(
        played.round.context, played.round.policy, 3, played.key_of(0) + played.key_of(1) + known
    ).open(played.round.sum_of([*played.bodies[:2], mauled]), 3)
    alone = played.round.sums(opened) - played.round.quantised(2)
    assert np.array_equal(alone, played.round.quantised(1))


def test_another_agents_box_in_an_own_letter_is_refused(played):
    facts, attacker = played.round.facts, played.round.identities[2]
    own = played.sealed[2].letters[0]
    form_bytes = 92  # what stands before the box
    stolen = own[:form_bytes] + played.sealed[0].letters[0][form_bytes:]
    with pytest.raises(Refused) as refusal:
        played.round.custodian(0).receive(sign_letter(stolen, attacker, facts))
    assert refusal.value.reason == Reason.NOT_ADDRESSED


def test_changed_box_is_refused_even_when_its_agent_signs_it(played):
    letter = bytearray(played.sealed[2].letters[0])
    letter[-1] ^= 1
    with pytest.raises(Refused, match="does not open"):
        played.round.custodian(0).receive(sign_letter(bytes(letter), played.round.identities[2], played.round.facts))


# --- weights, opening again, restoring ---------------------------------------------------------------


def test_no_list_makes_a_custodian_weigh_keys(played):
    custodian = played.round.custodian(0)
    for letters in played.letters:
        custodian.receive(letters[0])
    with pytest.raises(Refused, match="twice"):
        custodian.total([*played.members, *[played.members[0]] * 99])


def test_control_weighted_sum_of_keys_would_give_a_single_one(played):
    weighted = 100 * played.key_of(0) + played.key_of(1)
    assert np.array_equal(np.rint(weighted / 100), played.key_of(0))
    with pytest.raises(Malformed, match="not a sum"):
        OneTimeOpener(played.round.context, played.round.policy, 3, weighted)


def four_agents() -> tuple[OneTimeRound, list, list]:
    round_ = OneTimeRound(4)
    sealed = [round_.seal(agent) for agent in range(4)]
    letters = [round_.signed(agent, each) for agent, each in enumerate(sealed)]
    return round_, letters, [round_.member(agent, each.body) for agent, each in enumerate(sealed)]


def restored(round_: OneTimeRound, letters: list, witness: ChainWitness) -> None:
    """Every custodian as from a backup taken before it opened anything."""
    round_.custodians = [round_.custodian(index, witness=witness) for index in range(3)]
    for each in letters:
        round_.deliver(each)


def test_custodians_restored_from_a_backup_open_the_same_list_again_and_no_other():
    round_, letters, members = four_agents()
    restored(round_, letters, round_.witness)
    first = [custodian.total(members) for custodian in round_.custodians]
    restored(round_, letters, round_.witness)
    for custodian in round_.custodians:
        with pytest.raises(Refused, match="another list"):
            custodian.total(members[:3])
    assert [custodian.total(members) for custodian in round_.custodians] == first


def test_no_two_custodians_open_different_lists():
    round_, letters, members = four_agents()
    restored(round_, letters, round_.witness)
    round_.custodians[0].total(members)
    with pytest.raises(Refused, match="another list"):
        round_.custodians[1].total(members[1:])


def test_control_with_a_witness_that_forgets_two_sums_give_a_single_key():
    round_, letters, members = four_agents()
    key_sums = []
    for chosen in (members, members[1:]):
        restored(round_, letters, ChainWitness())
        key_sums.append(round_.opener(chosen)._key_sum)
    single = Played.key_of(_holder(round_, letters), 0)
    assert np.array_equal(key_sums[0] - key_sums[1], single)


def _holder(round_: OneTimeRound, letters: list) -> Played:
    holder = Played.__new__(Played)
    holder.round, holder.letters = round_, letters
    return holder


# --- integrity -------------------------------------------------------------------------------------


def test_changed_body_has_no_key_at_the_custodians():
    played = Played()
    for letters in played.letters:
        played.round.deliver(letters)
    changed = bytearray(played.bodies[0])
    changed[-1] ^= 0x10
    with pytest.raises(Refused, match="missing"):
        played.round.opener([played.round.member(0, bytes(changed)), *played.members[1:]])


def test_control_a_changed_word_alone_may_change_values_unseen():
    """Why sums are recomputed from signed bodies: the noise bound is no check of integrity."""
    played = Played()
    for letters in played.letters:
        played.round.deliver(letters)
    words = played.words(played.bodies[0])
    words[0] = (words[0] + np.uint64(played.round.plan.delta)) % MODULUS
    total = played.round.sum_of([played.body(words), *played.bodies[1:]])
    opened = played.round.sums(played.round.opener(played.members).open(total, 3))
    honest = sum(played.round.quantised(agent) for agent in range(3))
    assert np.flatnonzero(opened != honest).size == 1


# --- shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("custodian", [0, 1, 2])
def test_two_parts_of_a_key_read_nothing(played, custodian):
    """One custodian, a collector and a corrupt agent together: the third part is missing."""
    letter = played.letters[0][custodian]
    share = read_letter(letter, played.round.facts, custodian, BOX_SECRETS[custodian])
    guess = sum(share.parts.values(), np.zeros(RING_DEGREE, np.uint16)).view(np.int16).astype(np.int64)
    assert np.abs(guess).max() > 30_000  # spread over everything
    assert played.share_read(played.bodies[0], guess, 0) < CHANCE


def test_one_custodian_alone_reads_every_update_it_can_get(played):
    """What docs/security.md says of one custodian; with three, any two are needed."""
    single = Played(custodians=1)
    assert single.share_read(single.bodies[0], single.key_of(0, (0,)), 0) == 1.0


def test_key_of_a_round_says_nothing_about_another_round_of_the_same_agent(played):
    again = Played()
    assert again.round.facts.digest == played.round.facts.digest
    assert played.share_read(played.bodies[0], again.key_of(0), 0) < CHANCE


def test_public_elements_follow_from_the_round_alone():
    first, second = OneTimeRound(3, number=7).facts.digest, OneTimeRound(3, number=8).facts.digest
    elements = [ring.public_element(digest, index) for digest in (first, second) for index in (0, 1)]
    assert len({hashlib.sha256(element.tobytes()).digest() for element in elements}) == 4
    assert all(element.size == RING_DEGREE and element.max() < MODULUS for element in elements)
