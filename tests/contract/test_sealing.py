"""What is particular to bfv-packed behind the sealing ports, with real keys (TenSEAL): exact sums, attacks, noise.

What every scheme promises: test_sealing_ports.py.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tenseal as ts
from tenseal import sealapi

from gemel.errors import ConfigError, Malformed, PeerError, Refused
from gemel.exchange.admission import Terms, check_frame
from gemel.sealing import work
from gemel.sealing.bfv import (
    Loader,
    create_context,
    encrypt,
    load_context,
    public_bytes,
    secret_bytes,
    words_of,
)
from gemel.sealing.budget import (
    BODY_HEADER_BYTES,
    CHUNK_BYTES,
    MODULUS,
    RING_DEGREE,
    Budget,
    batching_prime,
    budget_of,
)
from gemel.sealing.candidate import mean_update
from gemel.sealing.frames import OpenedSum, body_words, pack_body, times
from gemel.sealing.opener import Opener, create_key, open_sum, public_context_of
from gemel.sealing.packing import quantise
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import HEADER_BYTES, Envelope, Kind, pack, sign
from gemel.wire.messages import Entry, Policy, SealingPolicy, TrainingPlan
from gemel.wire.types import sha256
from tests.support import sealing
from tests.support.parties import AGENTS, TRUST
from tests.support.sealing import CAP, PARAMETERS, Plant, updates_of, weighted, zeros


def policy_of(bits=8, contributors=10, levels=1) -> SealingPolicy:
    return sealing.policy_of("bfv-packed", bits, contributors, levels)


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant(policy_of())


@pytest.fixture(scope="module")
def bodies(plant) -> list[bytes]:
    updates, weights = updates_of(3)
    return [plant.sealer.seal(u, w, zeros()).body for u, w in zip(updates, weights, strict=True)]


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("contributors", "parameters"), [(2, 30_000), (3, 30_000), (10, 30_000), (100, 50)])
def test_opened_sum_is_exactly_the_sum_of_what_agents_quantised(bits, contributors, parameters):
    plant = Plant(policy_of(bits, contributors), parameters)
    updates, weights = updates_of(contributors, parameters)
    sealed = [plant.sealer.seal(u, w, zeros(parameters)) for u, w in zip(updates, weights, strict=True)]
    total = plant.sum_of(s.body for s in sealed)
    opened = OpenedSum.parse(plant.opener.open(total, contributors), plant.policy, parameters)
    quantised = [
        quantise(u, zeros(parameters), clip=plant.policy.clip, bits=bits, share=w / CAP).values
        for u, w in zip(updates, weights, strict=True)
    ]
    assert np.array_equal(opened.sums, sum(quantised))

    mean = mean_update(opened, plant.policy, sum(weights))
    fedavg = CAP * sum(weighted(u, w) for u, w in zip(updates, weights, strict=True))
    worst = budget_of(plant.policy, parameters).worst_rounding_error(contributors, sum(weights))
    assert np.abs(mean - fedavg / sum(weights)).max() <= worst * 1.001


@pytest.mark.parametrize("bits", [4, 8])
def test_levelled_sum_is_exactly_what_agents_quantised_times_their_levels(bits):
    plant = Plant(policy_of(bits, 10, levels=4))
    updates, weights = updates_of(4)
    summer = plant.summer()
    for level, (update, weight) in enumerate(zip(updates, weights, strict=True), 1):
        summer.add(plant.sealer.seal(update, weight, zeros()).body, level)
    opened = OpenedSum.parse(plant.opener.open(summer.sum(), 1 + 2 + 3 + 4), plant.policy, PARAMETERS)
    quantised = [
        quantise(u, zeros(), clip=plant.policy.clip, bits=bits, share=w / CAP).values
        for u, w in zip(updates, weights, strict=True)
    ]
    assert np.array_equal(opened.sums, sum(level * values for level, values in enumerate(quantised, 1)))

    total = sum(level * weight for level, weight in enumerate(weights, 1))
    wanted = sum(level * CAP * weighted(u, w) for level, (u, w) in enumerate(zip(updates, weights, strict=True), 1))
    worst = budget_of(plant.policy, PARAMETERS).worst_rounding_error(opened.contributors, total)
    assert np.abs(mean_update(opened, plant.policy, total) - wanted / total).max() <= worst * 1.001


def test_worker_functions_do_a_whole_round_on_files(tmp_path):
    policy = policy_of(levels=3)
    key = create_key(policy, PARAMETERS)
    work.check_public_context(key.public_context, policy)
    assert public_context_of(key.secret) == key.public_context
    updates, weights = updates_of(3)
    spooled: list[tuple[Path, int]] = []
    for index, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        frame = bytes(HEADER_BYTES) + work.seal_update(key.public_context, policy, update, weight, zeros()).body
        work.check_body(frame, policy, PARAMETERS, sha256(key.public_context))
        path = tmp_path / str(index)
        path.write_bytes(frame)
        spooled.append((path, index + 1))
    total = work.sum_frames(key.public_context, policy, PARAMETERS, spooled)
    opened = OpenedSum.parse(open_sum(key.secret, total, 1 + 2 + 3), policy, PARAMETERS)
    assert opened.contributors == 6


# --- who can do what ------------------------------------------------------------------------------


def test_public_context_holds_no_secret_key_and_its_holder_cannot_decrypt(plant, bodies):
    context = ts.context_from(plant.context)
    assert not context.has_secret_key()
    words = next(iter(body_words(bodies[0])))
    vector = Loader(load_context(plant.context)).vector(words)
    with pytest.raises(ValueError, match="secret_key"):
        vector.decrypt()


@pytest.mark.parametrize("party", [Sealer, Summer])
def test_context_with_the_secret_key_is_refused_by_whoever_may_not_hold_it(party):
    policy = policy_of()
    context = create_context(budget_of(policy, PARAMETERS))
    leaked = context.serialize(save_public_key=True, save_secret_key=True)
    with pytest.raises(ConfigError, match="secret key"):
        party(leaked, policy, PARAMETERS)
    with pytest.raises(ConfigError, match="secret key"):
        work.check_public_context(leaked, policy_of())


def test_context_without_a_public_key_is_refused():
    context = create_context(budget_of(policy_of(), PARAMETERS))
    bare = context.serialize(save_public_key=False, save_secret_key=False)
    with pytest.raises(Refused, match="no public key"):
        work.check_public_context(bare, policy_of())


def test_context_with_weaker_parameters_or_another_policys_modulus_is_refused(plant):
    weak = ts.context(ts.SCHEME_TYPE.BFV, 8192, plain_modulus=1032193, coeff_mod_bit_sizes=[50, 55, 55])
    with pytest.raises(Refused, match="degree"):
        Sealer(public_bytes(weak), plant.policy, PARAMETERS)
    with pytest.raises(Refused, match="the policy needs"):
        Sealer(plant.context, policy_of(bits=4), PARAMETERS)
    for junk in (b"", b"\0" * 100, plant.context[:-1000]):
        with pytest.raises(PeerError):
            work.check_public_context(junk, policy_of())


def test_key_file_without_a_secret_key_is_malformed(plant):
    with pytest.raises(Malformed, match="no secret key"):
        Opener(plant.policy, PARAMETERS, plant.context, plant.context)


# --- bad bodies -----------------------------------------------------------------------------------


def test_own_minus_somebody_elses_body_opens_a_thirds_update_and_is_refused_by_the_commitment(plant, bodies):
    """Ciphertexts can be mauled: what stops it is that digests were signed before any body could be seen."""
    shape = plant.sealer._shape
    pairs = zip(body_words(bodies[2]), body_words(bodies[0]), strict=True)
    mauled = pack_body(shape, [(own + MODULUS - others) % MODULUS for own, others in pairs])
    opened = [
        OpenedSum.parse(plant.opener.open(plant.sum_of(each), 3), plant.policy, PARAMETERS).sums
        for each in ([bodies[0], bodies[1], mauled], [bodies[2], bodies[1], bodies[1]], [bodies[1]] * 3)
    ]
    third, own = opened[2] // 3, opened[1] - 2 * (opened[2] // 3)
    assert np.array_equal(opened[0] - own, third)  # it works on ciphertexts

    policy = Policy(plant.policy, TrainingPlan(1, 1, 0.1), minimum_owners=3, max_frame_bytes=10**6)
    terms = Terms(TRUST, round=1, base="0" * 64, policy=policy)

    def update(body: bytes) -> Envelope:
        return sign(
            AGENTS[0],
            TRUST.domain,
            TRUST.task,
            Kind.UPDATE,
            body,
            issued_at_ms=1,
            round=1,
            base=terms.base,
            policy=policy.digest,
            weight=1,
        )

    committed = update(bodies[2])
    transfer = Transfer(digest=committed.header.body_digest, length=len(bodies[2]))
    entry = Entry(AGENTS[0].address, committed.header.body_digest, 1, transfer)
    check_frame(pack(committed), entry, terms)
    with pytest.raises(Refused, match="no_commitment"):
        check_frame(pack(update(mauled)), entry, terms)


def test_tenseals_own_serialisation_is_no_sealed_body(plant):
    vector = encrypt(load_context(plant.context), np.arange(RING_DEGREE))
    with pytest.raises(Refused, match="plaintext"):
        plant.summer().add(vector.serialize())


HOSTILE = """
import sys
from pathlib import Path
import numpy as np
from gemel.errors import Malformed, Refused
from gemel.sealing.budget import BODY_HEADER_BYTES, CHUNK_BYTES
from gemel.sealing.opener import Opener
from gemel.sealing.summer import Summer

folder = Path(sys.argv[1])
opener = Opener.from_bytes((folder / "key").read_bytes())
honest = (folder / "update").read_bytes()
policy, parameters = opener._budget.policy, opener._budget.parameters
rng = np.random.default_rng(11)
refused = accepted = 0
context = opener.public_context()
for index in range(1200):
    body, kind = bytearray(honest), index % 6
    if kind == 0:  # one bit of the header
        body[rng.integers(BODY_HEADER_BYTES)] ^= 1 << rng.integers(8)
    elif kind == 1:  # a count, size or modulus
        offset = int(rng.choice([8, 12, 16, 20, 24, 28, 32]))
        body[offset : offset + 4] = rng.bytes(4)
    elif kind == 2:  # truncated
        body = body[: rng.integers(len(body))]
    elif kind == 3:  # extended
        body += rng.bytes(int(rng.integers(1, CHUNK_BYTES + 2)))
    elif kind == 4:  # swapped context
        body[36:68] = rng.bytes(32)
    else:  # words: a different ciphertext, or no ciphertext at all
        offset = int(rng.integers(BODY_HEADER_BYTES, len(body)))
        body[offset] ^= int(rng.integers(1, 256))
    if index == 0 or summer.contributors == policy.contributors:
        summer = Summer(context, policy, parameters)
    try:
        summer.add(bytes(body))
    except Refused:
        refused += 1
        continue
    assert kind == 5, f"mutation {index} of kind {kind} was accepted"
    accepted += 1
    try:
        opener.open(summer.sum(), summer.contributors)
    except Malformed:
        pass
print(refused, accepted)
"""


def test_hostile_bodies_are_refused_or_only_other_ciphertexts_and_the_process_lives(plant, tmp_path):
    """What a signed digest would already catch is let through here: only form protects the parser."""
    (tmp_path / "key").write_bytes(plant.opener.to_bytes())
    (tmp_path / "update").write_bytes(plant.sealer.seal(updates_of(1)[0][0], CAP, zeros()).body)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, accepted = map(int, done.stdout.split())
    assert refused + accepted == 1200
    assert refused >= 1000  # everything but changed words
    assert accepted > 0  # those reached SEAL, as some other ciphertext


MEMORY = """
import sys
from pathlib import Path
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy

def peak_kib():
    status = Path("/proc/self/status").read_text()  # getrusage's peak would begin with the parent's
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

folder = Path(sys.argv[1])
summer = Summer((folder / "context").read_bytes(), SealingPolicy("bfv-packed", 8, 0.1, 1000, 1000), 90_000)
for index in range(150):
    summer.add((folder / "update").read_bytes())
    if index == 20:
        early = peak_kib()
print(peak_kib() - early)
"""


def test_memory_stays_flat_in_the_number_of_contributors(tmp_path):
    plant = Plant(policy_of(contributors=1000), 90_000)
    (tmp_path / "context").write_bytes(plant.context)
    body = plant.sealer.seal(zeros(90_000), CAP, zeros(90_000)).body
    (tmp_path / "update").write_bytes(body)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) * 1024 < 10 * len(body)  # 129 more updates were added


# --- what the budget rests on ---------------------------------------------------------------------


def test_seal_picks_the_moduli_that_the_budget_names():
    context = create_context(budget_of(policy_of(), PARAMETERS))
    first = context.seal_context().data.first_context_data().parms().coeff_modulus()
    assert [modulus.value() for modulus in first] == [MODULUS]
    assert sealapi.CoeffModulus.MaxBitCount(RING_DEGREE, sealapi.SEC_LEVEL_TYPE.TC128) >= 54 + 55


@pytest.mark.parametrize(
    ("bits", "contributors", "levels"),
    [(8, 4, 1), (8, 10, 1), (4, 10, 1), (4, 100, 1), (4, 10, 2), (4, 10, 4), (8, 10, 4), (4, 100, 4)],
)
def test_measured_noise_leaves_at_least_what_the_model_says(bits, contributors, levels):
    budget = budget_of(policy_of(bits, contributors, levels), PARAMETERS)
    context = create_context(budget)
    loader = Loader(context)

    def weighed():
        return loader.vector(times(levels, words_of(encrypt(context, np.zeros(RING_DEGREE, np.int64)))))

    total = weighed()
    for _ in range(contributors - 1):
        total += weighed()
    decryptor = sealapi.Decryptor(context.seal_context().data, context.secret_key().data)
    assert decryptor.invariant_noise_budget(total.ciphertext()[0]) >= math.floor(budget.noise_margin_bits)


def test_sum_beyond_the_noise_budget_opens_wrongly_and_silently_which_is_why_budgets_are_checked():
    policy = policy_of(bits=4, contributors=100)
    over = Budget(policy, PARAMETERS, 5, batching_prime(2**46))
    with pytest.raises(ConfigError, match="noise"):
        over.check()
    context = create_context(over)
    slots = np.arange(RING_DEGREE)
    total = encrypt(context, slots)
    for _ in range(99):
        total += encrypt(context, slots)
    assert (np.array(total.decrypt()) != slots * 100).mean() > 0.99


def test_secret_and_public_bytes_differ_in_what_they_hold():
    context = create_context(budget_of(policy_of(), PARAMETERS))
    assert load_context(secret_bytes(context)).has_secret_key()
    assert not load_context(public_bytes(context)).has_secret_key()


def test_words_make_the_round_trip_through_tenseal(plant):
    context = load_context(plant.context)
    vector = encrypt(context, np.arange(RING_DEGREE))
    words = words_of(vector)
    assert np.array_equal(words_of(Loader(context).vector(words)), words)
    assert words.max() < MODULUS
    assert words.size * 7 == CHUNK_BYTES
    assert len(pack_body(plant.sealer._shape, [])) == BODY_HEADER_BYTES
