"""Merkle trees against a verifier written as OpenZeppelin's MerkleProof does it."""

from __future__ import annotations

import pytest
from eth_abi import encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from gemel.wire.merkle import leaf, proof, proofs, root, verify

LEAVES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40, unique=True)


def openzeppelin_verify(proof_: list[bytes], root_: bytes, leaf_: bytes) -> bool:
    """MerkleProof.verify: processProof(proof, leaf) == root, with _hashPair sorting each pair."""
    computed = leaf_
    for sibling in proof_:
        first, second = sorted((computed, sibling))
        computed = keccak(first + second)
    return computed == root_


@given(LEAVES, st.data())
def test_every_leaf_proves_itself_to_us_and_to_openzeppelin(leaves: list[bytes], data: st.DataObject) -> None:
    top = root(leaves)
    member = data.draw(st.sampled_from(leaves))
    path = proof(leaves, member)
    assert verify(top, member, path)
    assert openzeppelin_verify(path, bytes.fromhex(top), member)
    assert len(path) <= (len(leaves) - 1).bit_length()


@given(LEAVES)
def test_proofs_of_all_leaves_are_those_of_each(leaves: list[bytes]) -> None:
    assert proofs(leaves) == {member: proof(leaves, member) for member in leaves}


@given(LEAVES, st.data())
def test_one_flipped_bit_in_leaf_path_or_root_never_proves(leaves: list[bytes], data: st.DataObject) -> None:
    top = root(leaves)
    member = data.draw(st.sampled_from(leaves))
    parts = [bytes.fromhex(top), member, *proof(leaves, member)]
    which, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[which] = (int.from_bytes(parts[which], "big") ^ (1 << bit)).to_bytes(32, "big")
    assert not verify(parts[0].hex(), parts[1], parts[2:])


@given(LEAVES, st.binary(min_size=32, max_size=32), st.data())
def test_stranger_does_not_prove_with_anybodys_path(
    leaves: list[bytes], stranger: bytes, data: st.DataObject
) -> None:
    if stranger not in leaves:
        path = proof(leaves, data.draw(st.sampled_from(leaves)))
        assert not verify(root(leaves), stranger, path)
        with pytest.raises(ValueError, match="not in list"):
            proof(leaves, stranger)


@given(LEAVES, st.randoms(use_true_random=False))
def test_order_of_leaves_carries_no_meaning(leaves: list[bytes], random: object) -> None:
    shuffled = list(leaves)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis hands in a random.Random
    assert root(shuffled) == root(leaves)


def test_leaf_is_the_double_hash_of_the_abi_encoding() -> None:
    device, digest, weight, level = "0x" + "ab" * 20, "cd" * 32, 120, 3
    encoded = encode(["address", "bytes32", "uint256", "uint256"], [device, bytes.fromhex(digest), weight, level])
    assert leaf(device, digest, weight, level) == keccak(keccak(encoded))


def test_bytes_of_an_inner_node_hash_to_another_leaf_than_the_node() -> None:
    """The known attack on trees with singly hashed leaves: 64 bytes of two children handed in as an update."""
    children = b"".join(sorted(leaf(f"0x{n:040x}", "cd" * 32, 1, 1) for n in range(2)))
    inner = bytes.fromhex(root([children[:32], children[32:]]))
    assert inner == keccak(children)
    assert inner != keccak(keccak(children))


def test_single_leaf_is_its_own_root() -> None:
    assert root([b"\x01" * 32]) == "01" * 32
    assert proof([b"\x01" * 32], b"\x01" * 32) == []


def test_tree_without_leaves_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        root([])
