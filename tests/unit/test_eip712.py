"""Our EIP-712 against eth-account's encoder, for every struct that is signed."""

from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak
from hypothesis import given
from hypothesis import strategies as st

from gemel.wire import attestations, envelope, sharing, upkeep
from gemel.wire.attestations import ModelAttestation, SumAttestation
from gemel.wire.eip712 import Domain, task_id, word
from gemel.wire.envelope import Kind, sign
from gemel.wire.identity import recover
from gemel.wire.sharing import Grant, grant_hash, grant_id, revocation_hash
from gemel.wire.upkeep import OrderState, Step, sign_alert, sign_step
from tests.support.parties import identity

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
DOMAINS = st.builds(Domain, st.integers(0, 2**64 - 1), ADDRESSES)
COUNTS = st.integers(0, 2**53)
PPM = st.integers(0, 1_000_000)
TASKS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


def by_eth_account(domain: Domain, type_string: str, values: dict[str, object]) -> bytes:
    """The 32 bytes that eth-account would sign."""
    name, _, fields = type_string.rstrip(")").partition("(")
    types = {name: [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]}
    assert [field["name"] for field in types[name]] == list(values)
    signable = encode_typed_data(
        {"name": "Gemel", "version": "1", "chainId": domain.chain_id, "verifyingContract": domain.registry},
        types,
        values,
    )
    return bytes(keccak(b"\x19" + signable.version + signable.header + signable.body))


@given(DOMAINS, TASKS, COUNTS, DIGESTS, DIGESTS, st.integers(0, 2**32 - 1), COUNTS)
def test_sum_attestation_hashes_as_eth_account_does(
    domain: Domain, task: str, round_: int, root: str, digest: str, owners: int, weight: int
) -> None:
    ours = SumAttestation(task, round_, root, digest, owners, weight).hash(domain)
    values: dict[str, object] = {"task": bytes.fromhex(task_id(task)), "round": round_}
    values |= {"updatesRoot": bytes.fromhex(root), "sumDigest": bytes.fromhex(digest)}
    values |= {"owners": owners, "weight": weight}
    assert ours == by_eth_account(domain, attestations._SUM_TYPE, values)


@given(DOMAINS, TASKS, COUNTS, COUNTS, DIGESTS, DIGESTS, PPM, PPM, st.booleans())
def test_model_attestation_hashes_as_eth_account_does(
    domain: Domain,
    task: str,
    round_: int,
    deployment: int,
    parent: str,
    model: str,
    accuracy: int,
    baseline: int,
    approved: bool,
) -> None:
    ours = ModelAttestation(task, round_, deployment, parent, model, accuracy, baseline, approved).hash(domain)
    values: dict[str, object] = {"task": bytes.fromhex(task_id(task)), "round": round_, "deployment": deployment}
    values |= {"parent": bytes.fromhex(parent), "model": bytes.fromhex(model)}
    values |= {"accuracy": accuracy, "baseline": baseline, "approved": approved}
    assert ours == by_eth_account(domain, attestations._MODEL_TYPE, values)


@given(DOMAINS, TASKS, st.sampled_from(Kind), st.tuples(*[st.integers(0, 2**64 - 1)] * 3), DIGESTS, DIGESTS)
def test_header_hashes_as_eth_account_does_and_its_signature_is_the_same(
    domain: Domain, task: str, kind: Kind, numbers: tuple[int, int, int], base: str, policy: str
) -> None:
    round_, weight, issued = numbers
    author = identity(5)
    said = {"issued_at_ms": issued, "round": round_, "base": base, "policy": policy, "weight": weight}
    header = sign(author, domain, task, kind, b"body", **said).header
    values: dict[str, object] = {"kind": int(kind), "sender": author.address, "task": bytes.fromhex(task_id(task))}
    values |= {"round": round_, "base": bytes.fromhex(base), "policy": bytes.fromhex(policy)}
    values |= {"weight": weight, "issuedAt": issued}
    values |= {"bodyLength": 4, "bodyDigest": bytes.fromhex(header.body_digest)}
    assert header.hash == by_eth_account(domain, envelope._TYPE, values)
    theirs = Account.unsafe_sign_hash(header.hash, (5).to_bytes(32, "big")).signature
    assert header.signature == bytes(theirs)


@given(DOMAINS, ADDRESSES, ADDRESSES, st.text(max_size=40), COUNTS, COUNTS, COUNTS)
def test_grant_hashes_as_eth_account_does_in_seconds(
    domain: Domain, owner: str, consumer: str, scope: str, from_s: int, until_s: int, nonce: int
) -> None:
    ours = grant_hash(Grant(owner, consumer, scope, from_s * 1000, until_s * 1000), nonce, domain)
    values: dict[str, object] = {"owner": owner, "consumer": consumer, "scope": scope}
    values |= {"from": from_s, "until": until_s, "nonce": nonce}
    assert ours == by_eth_account(domain, sharing._GRANT_TYPE, values)


@given(DOMAINS, DIGESTS)
def test_revocation_hashes_as_eth_account_does(domain: Domain, id_: str) -> None:
    ours = revocation_hash(id_, domain)
    assert ours == by_eth_account(domain, sharing._REVOCATION_TYPE, {"grant": bytes.fromhex(id_)})


def test_grant_is_named_by_its_struct_hash_whatever_the_contract() -> None:
    grant = Grant("0x" + "ab" * 20, "0x" + "cd" * 20, "gemel/v1/bonn/twin/rig-1/+", 1_000, 2_000)
    domain = Domain(1, "0x" + "ef" * 20)
    assert keccak(b"\x19\x01" + domain.separator + bytes.fromhex(grant_id(grant, 7))) == grant_hash(grant, 7, domain)


@given(DOMAINS, DIGESTS, DIGESTS, COUNTS, st.sampled_from(OrderState))
def test_maintenance_steps_and_alerts_are_signed_over_what_eth_account_hashes(
    domain: Domain, order: str, report: str, time_s: int, state: OrderState
) -> None:
    author = identity(5)
    values: dict[str, object] = {"order": bytes.fromhex(order), "state": int(state), "time": time_s}
    values["report"] = bytes.fromhex(report)
    signature = sign_step(author, domain, order, state, Step(author.address, time_s, report))
    assert recover(by_eth_account(domain, upkeep._STEP_TYPE, values), bytes.fromhex(signature)) == author.address

    alert = sign_alert(author, domain, site="bonn", asset="rig-1", alert="hot-1@5", time_s=time_s, report=report)
    values = {"asset": keccak(b"gemel/v1/bonn/twin/rig-1"), "alert": keccak(b"hot-1@5"), "time": time_s}
    values["report"] = bytes.fromhex(report)
    signed = by_eth_account(domain, upkeep._ALERT_TYPE, values)
    assert recover(signed, bytes.fromhex(alert.signature)) == author.address


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00" * 32),
        (True, "00" * 31 + "01"),
        (2**256 - 1, "ff" * 32),
        ("0x" + "ab" * 20, "00" * 12 + "ab" * 20),
        ("cd" * 32, "cd" * 32),
        (b"\xef" * 32, "ef" * 32),
    ],
)
def test_word_is_32_bytes_as_the_abi_has_them(value: int | str | bytes, expected: str) -> None:
    assert word(value).hex() == expected


@pytest.mark.parametrize(
    "value", [-1, 2**256, b"short", "ab" * 31, "ab" * 33, "0x" + "ab" * 19, "0x" + "ab" * 33, "0x", "no hex"]
)
def test_value_that_fits_no_word_is_refused(value: int | str | bytes) -> None:
    with pytest.raises((ValueError, OverflowError)):
        word(value)


def test_domain_binds_chain_and_contract() -> None:
    domains = [Domain(1, "0x" + "ab" * 20), Domain(2, "0x" + "ab" * 20), Domain(1, "0x" + "cd" * 20)]
    assert len({domain.separator for domain in domains}) == 3
