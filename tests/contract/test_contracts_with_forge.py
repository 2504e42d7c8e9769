"""The contracts themselves: what is committed is what the sources compile to, and forge's own tests pass."""

from __future__ import annotations

import re
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path

import msgspec
import pytest
from eth_hash.auto import keccak

from gemel.adapters.contract_abi import ROUND_REGISTRY, load
from gemel.ports import Role, RoundState
from gemel.wire import merkle
from tests.support.chains import REPOSITORY, require

CONTRACTS = REPOSITORY / "contracts"
FORGE = CONTRACTS / "node_modules/@foundry-rs/forge-linux-amd64/bin/forge"
SOLC = CONTRACTS / "node_modules/solc"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=CONTRACTS, capture_output=True, text=True, check=False)


def node() -> str:
    require(SOLC)
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is absent; the compiler runs on it")
    return program


def test_committed_abi_and_bytecode_are_what_the_sources_compile_to() -> None:
    done = run(node(), "compile.js", "--check")
    assert done.returncode == 0, done.stderr


def test_check_notices_one_changed_byte(tmp_path: Path) -> None:
    program = node()
    for name in ("src", "generated"):
        shutil.copytree(CONTRACTS / name, tmp_path / name)
    for name in ("compile.js", "solc.js"):
        shutil.copy(CONTRACTS / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(CONTRACTS / "node_modules")
    generated = tmp_path / "generated" / "RoundRegistry.json"
    text = generated.read_text()
    at = text.index('"bytecode": "0x') + len('"bytecode": "0x')
    generated.write_text(text[:at] + ("7" if text[at] == "6" else "6") + text[at + 1 :])
    done = subprocess.run(
        [program, "compile.js", "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "generated/RoundRegistry.json is not what src/ compiles to" in done.stderr


def test_forge_tests_pass() -> None:
    require(FORGE)
    node()  # forge calls the compiler through it
    done = run(FORGE, "test", "--color", "never")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* tests passed, 0 failed, 0 skipped", done.stdout)


# --- the same words and numbers on both sides: these need no tools ------------------------------------


@pytest.mark.parametrize(("enum", "source"), [(Role, "DeviceRegistry.sol"), (RoundState, "RoundRegistry.sol")])
def test_enum_has_the_same_words_and_numbers_in_solidity(enum: type[IntEnum], source: str) -> None:
    text = (CONTRACTS / "src" / source).read_text()
    found = re.search(rf"enum {enum.__name__} \{{(.*?)\}}", text, re.DOTALL)
    assert found is not None
    words = [re.sub(r"(?<!^)(?=[A-Z])", "_", word.strip()).upper() for word in found[1].split(",")]
    assert words == [member.name for member in sorted(enum)]
    assert [member.value for member in sorted(enum)] == list(range(len(enum)))


def test_every_type_that_a_contract_takes_signed_is_the_same_text_in_python() -> None:
    on_chain, in_python = _signed_types(CONTRACTS / "src", "*.sol"), _signed_types(REPOSITORY / "gemel/wire", "*.py")
    assert {"SumAttestation", "ModelAttestation", "VoteCommitment", "Registration"} <= on_chain.keys()
    assert on_chain.items() <= in_python.items()


def _signed_types(folder: Path, pattern: str) -> dict[str, str]:
    """EIP-712 type strings by name; one that is split over lines is joined."""
    texts = [re.sub(r'"\s*\n\s*"', "", file.read_text()) for file in folder.glob(pattern)]
    found = {each for text in texts for each in re.findall(r'"([A-Z]\w+\((?:\w+ \w+,?)+\))"', text)}
    return {each.partition("(")[0]: each for each in found}


@pytest.mark.parametrize(
    ("contract", "variable"), [("DeviceRegistry", "devices"), ("RoundRegistry", "rounds"), ("Administration", "it")]
)
def test_every_function_that_changes_something_is_among_the_calls_that_nobody_without_right_may_make(
    contract: str, variable: str
) -> None:
    source = (CONTRACTS / "test/Rights.invariant.t.sol").read_text()
    abi = msgspec.json.decode((CONTRACTS / "generated" / f"{contract}.json").read_bytes())["abi"]
    changing = {
        each["name"] for each in abi if each["type"] == "function" and each["stateMutability"] not in ("view", "pure")
    }
    assert changing
    assert changing == set(re.findall(rf"abi\.encodeCall\({variable}\.(\w+),", source))


def test_merkle_vectors_in_forges_test_are_those_of_python() -> None:
    source = (CONTRACTS / "test/AuditAnchors.t.sol").read_text()
    vectors = dict(re.findall(r"bytes32 private constant (\w+) = 0x([0-9a-f]{64});", source))
    leaves = [bytes(keccak(keccak(f"entry {number}".encode()))) for number in range(5)]
    first, second = merkle.proof(leaves, leaves[0]), merkle.proof(leaves, leaves[1])
    assert vectors == {
        "ROOT": merkle.root(leaves),
        "LEAF_0": leaves[0].hex(),
        "PROOF_0": first[0].hex(),
        "LEAF_1": leaves[1].hex(),
        **{f"PROOF_1_{step}": sibling.hex() for step, sibling in enumerate(second)},
    }
    assert len(first) == 1  # the odd leaf of five: it moves up unpaired


@pytest.mark.parametrize("file", sorted((CONTRACTS / "generated").glob("*.json")), ids=lambda file: file.stem)
def test_every_generated_contract_loads_and_fits_on_chain(file: Path) -> None:
    contract = load(file.stem)
    assert contract.functions
    assert contract.errors
    assert len(contract.bytecode) <= 24_576  # EIP-170 bounds what is deployed, and that is a part of this


def test_election_answers_what_besu_asks() -> None:
    entry = load("Election").functions["getValidators"]
    assert entry.selector.hex() == "b7ab4db5"  # keccak of «getValidators()»
    assert [output["type"] for output in entry.outputs] == ["address[]"]


def test_every_call_of_the_port_has_its_function() -> None:
    functions = load(ROUND_REGISTRY).functions.keys()
    calls = {
        *("createTask", "proposeGenesis", "openRound", "closeList", "proposeSum", "attestSums", "recordOpening"),
        *(
            "proposeCandidate",
            "finalise",
            "recordDeployed",
            "rollBack",
            "abort",
            "bind",
            "setPolicy",
            "task",
            "round",
        ),
    }
    assert calls <= functions
