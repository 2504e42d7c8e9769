"""The embedded chain's JSON-RPC, in process: what it answers, and how it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.adapters.contract_abi import DEVICE_REGISTRY, load
from gemel.adapters.typed_transactions import Transaction, open_transaction, rebuild_transaction, sign_transaction
from gemel.embedded.chain.node import Node
from gemel.embedded.chain.rpc import BATCH_LIMIT, Rpc, RpcError, parse
from gemel.embedded.chain.store import Document, Store
from gemel.errors import ConfigError
from gemel.wire.identity import Identity
from tests.support.parties import identity

OWNER, POOR = identity(4), identity(5)
CHAIN_ID = 7


def call_rpc(rpc: Rpc, method: object, *parameters: object) -> Document:
    return rpc.answer({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)})


def transfer(
    who: Identity = OWNER,
    *,
    nonce: int = 0,
    chain_id: int = CHAIN_ID,
    data: bytes = b"",
    gas: int = 60_000,
    to: str | None = "0x" + "22" * 20,
) -> str:
    return "0x" + sign_transaction(Transaction(chain_id, nonce, 10**9, 10**10, gas, to, data), who).hex()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "chain.db")
    yield opened
    opened.close()


@pytest.fixture
def heard() -> list[Document]:
    return []


@pytest.fixture
def rpc(store: Store, heard: list[Document]) -> Rpc:
    return Rpc(Node(store, CHAIN_ID, [bytes.fromhex(OWNER.address[2:])]), store, heard.append)


# --- what it answers --------------------------------------------------------------------------------


def test_new_chain_has_a_genesis_block_and_funded_addresses(rpc: Rpc) -> None:
    assert call_rpc(rpc, "eth_chainId")["result"] == "0x7"
    assert call_rpc(rpc, "eth_blockNumber")["result"] == "0x0"
    assert call_rpc(rpc, "eth_getBalance", OWNER.address, "latest")["result"] == hex(10**24)
    genesis = call_rpc(rpc, "eth_getBlockByNumber", "earliest", False)["result"]
    assert genesis["number"] == "0x0"
    assert call_rpc(rpc, "eth_getBlockByHash", genesis["hash"], False)["result"] == genesis


def test_transaction_is_in_a_block_of_its_own_when_it_is_acknowledged(rpc: Rpc, heard: list[Document]) -> None:
    raw = transfer()
    digest = call_rpc(rpc, "eth_sendRawTransaction", raw)["result"]
    receipt = call_rpc(rpc, "eth_getTransactionReceipt", digest)["result"]
    assert (receipt["status"], receipt["blockNumber"]) == ("0x1", "0x1")
    block = call_rpc(rpc, "eth_getBlockByNumber", "latest", True)["result"]
    assert [each["hash"] for each in block["transactions"]] == [digest]
    assert call_rpc(rpc, "eth_getTransactionCount", OWNER.address, "latest")["result"] == "0x1"
    assert call_rpc(rpc, "eth_getTransactionCount", OWNER.address, "0x0")["result"] == "0x0"
    assert [each["number"] for each in heard] == ["0x1"]
    assert digest == "0x" + open_transaction(bytes.fromhex(raw[2:])).hash


def test_logs_are_found_by_address_block_and_topic(rpc: Rpc) -> None:
    deployment = load(DEVICE_REGISTRY).deployment(OWNER.address)
    digest = call_rpc(rpc, "eth_sendRawTransaction", transfer(data=deployment, gas=3_000_000, to=None))["result"]
    receipt = call_rpc(rpc, "eth_getTransactionReceipt", digest)["result"]
    logs, block = receipt["logs"], receipt["blockHash"]
    assert len(logs) == 2  # two roles granted
    contract, (granted, admin, *_) = receipt["contractAddress"], logs[0]["topics"]
    for query, found in (
        ({"fromBlock": "0x0"}, logs),
        ({"fromBlock": "0x0", "address": contract}, logs),
        ({"fromBlock": "0x0", "address": [contract.upper().replace("X", "x"), "0x" + "22" * 20]}, logs),
        ({"fromBlock": "0x0", "address": "0x" + "22" * 20}, []),
        ({"fromBlock": "0x0", "toBlock": "0x0"}, []),
        ({"fromBlock": "0x2", "toBlock": "0xffffffffffffffffffffff"}, []),
        ({"blockHash": block}, logs),
        ({"topics": [granted]}, logs),
        ({"topics": [None, admin]}, logs[:1]),
        ({"topics": [[granted, admin], [admin]]}, logs[:1]),
        ({"topics": [admin]}, []),
        ({"topics": [None, None, None, None]}, logs),
    ):
        assert call_rpc(rpc, "eth_getLogs", query)["result"] == found, query
    assert call_rpc(rpc, "eth_getCode", contract)["result"] != "0x"


def test_chain_goes_on_where_it_was_when_it_is_opened_again(rpc: Rpc, store: Store) -> None:
    digest = call_rpc(rpc, "eth_sendRawTransaction", transfer())["result"]
    again = Rpc(Node(store, CHAIN_ID, []), store, lambda _: None)
    assert call_rpc(again, "eth_getTransactionReceipt", digest)["result"]["blockNumber"] == "0x1"
    assert "result" in call_rpc(again, "eth_sendRawTransaction", transfer(nonce=1))
    blocks = [call_rpc(again, "eth_getBlockByNumber", hex(n), False)["result"] for n in range(3)]
    assert [block["parentHash"] for block in blocks[1:]] == [block["hash"] for block in blocks[:-1]]
    times = [int(block["timestamp"], 16) for block in blocks]
    assert times == sorted(set(times))


def test_file_of_another_chain_is_refused(rpc: Rpc, store: Store) -> None:
    with pytest.raises(ConfigError, match="chain_id: 7"):
        Node(store, 8, [])


def test_file_that_is_no_database_or_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    path.write_bytes(b"not a database at all" * 100)
    for wrong in (path, tmp_path / "nowhere" / "chain.db"):
        with pytest.raises(ConfigError, match="chain of our own"):
            Store(wrong)


# --- how it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters", "code", "message"),
    [
        ("eth_mine", [], -32601, "does not exist"),
        ("eth_getBalance", [], -32602, "missing a required argument"),
        ("eth_chainId", [1, 2], -32602, "too many"),
        ("eth_getBalance", ["0x1234"], -32602, "20 bytes, got 2"),
        ("eth_getBalance", ["1234"], -32602, "bytes are 0x"),
        ("eth_getBalance", [7], -32602, "bytes are 0x"),
        ("eth_getBalance", [OWNER.address, "newest"], -32602, "a quantity"),
        ("eth_getBalance", [OWNER.address, 5], -32602, "a quantity"),
        ("eth_getBalance", [OWNER.address, "0x" + "f" * 65], -32602, "a quantity"),
        ("eth_getBalance", [OWNER.address, "0x9"], -32000, "header not found"),
        ("eth_getTransactionReceipt", ["0x12"], -32602, "32 bytes, got 1"),
        ("eth_getLogs", ["all"], -32602, "filter is an object"),
        ("eth_getLogs", [{"topics": "all"}], -32602, "at most four"),
        ("eth_getLogs", [{"topics": [None] * 5}], -32602, "at most four"),
        ("eth_getLogs", [{"topics": ["0x00"]}], -32602, "32 bytes"),
        ("eth_getLogs", [{"address": 5}], -32602, "bytes are 0x"),
        ("eth_getLogs", [{"blockHash": "0x" + "00" * 32}], -32000, "unknown block"),
        ("eth_call", ["0x"], -32602, "a call is an object"),
        ("eth_call", [{"to": "0x12"}], -32602, "20 bytes"),
        ("eth_estimateGas", [{"to": OWNER.address, "gas": "much"}], -32602, "a quantity"),
        ("eth_sendRawTransaction", ["0xzz"], -32602, "bytes are 0x"),
        ("eth_sendRawTransaction", ["0x"], -32000, "not a signed transaction"),
        ("eth_sendRawTransaction", ["0x02"], -32000, "not a signed transaction"),
        ("eth_sendRawTransaction", ["0x02c0"], -32000, "not a signed transaction"),
        ("eth_sendRawTransaction", ["0x7f" + "00" * 20], -32000, "not a signed transaction"),
        ("eth_sendRawTransaction", [transfer(chain_id=8)], -32000, "invalid chain id"),
        ("eth_sendRawTransaction", [transfer(nonce=1)], -32000, "nonce too high"),
        ("eth_sendRawTransaction", [transfer(POOR)], -32000, "insufficient funds"),
        ("eth_sendRawTransaction", [transfer(gas=20_000)], -32000, "gas"),
        ("eth_sendRawTransaction", [transfer(gas=31_000_000)], -32000, "gas"),
    ],
)
def test_bad_request_is_answered_with_its_code_and_changes_nothing(
    rpc: Rpc, method: str, parameters: list[object], code: int, message: str
) -> None:
    error = call_rpc(rpc, method, *parameters)["error"]
    assert error["code"] == code
    assert re.search(message, error["message"]), error
    assert call_rpc(rpc, "eth_blockNumber")["result"] == "0x0"
    assert "result" in call_rpc(rpc, "eth_sendRawTransaction", transfer())


def test_unknown_blocks_and_transactions_are_null(rpc: Rpc) -> None:
    nothing = "0x" + "00" * 32
    for method, parameters in (
        ("eth_getBlockByNumber", ["0x5", False]),
        ("eth_getBlockByHash", [nothing, False]),
        ("eth_getTransactionByHash", [nothing]),
        ("eth_getTransactionReceipt", [nothing]),
    ):
        assert call_rpc(rpc, method, *parameters)["result"] is None


def test_transaction_that_was_taken_is_not_taken_again(rpc: Rpc) -> None:
    call_rpc(rpc, "eth_sendRawTransaction", transfer())
    assert call_rpc(rpc, "eth_sendRawTransaction", transfer())["error"]["message"] == "already known"
    other = call_rpc(rpc, "eth_sendRawTransaction", transfer(gas=70_000))
    assert "nonce too low" in other["error"]["message"]
    assert call_rpc(rpc, "eth_blockNumber")["result"] == "0x1"


def test_revert_carries_the_contracts_bytes_and_a_sent_one_fails_in_its_block(rpc: Rpc) -> None:
    deployment = load(DEVICE_REGISTRY).deployment(OWNER.address)
    digest = call_rpc(rpc, "eth_sendRawTransaction", transfer(data=deployment, gas=3_000_000, to=None))["result"]
    contract = call_rpc(rpc, "eth_getTransactionReceipt", digest)["result"]["contractAddress"]
    data = load(DEVICE_REGISTRY).functions["suspend"].encode(POOR.address)
    call = {"from": OWNER.address, "to": contract, "data": "0x" + data.hex()}
    for method in ("eth_call", "eth_estimateGas"):
        error = call_rpc(rpc, method, call)["error"]
        assert error["code"] == 3
        assert bytes.fromhex(error["data"][2:10]) in load(DEVICE_REGISTRY).errors
    sent = call_rpc(rpc, "eth_sendRawTransaction", transfer(nonce=1, data=data, to=contract))["result"]
    assert call_rpc(rpc, "eth_getTransactionReceipt", sent)["result"]["status"] == "0x0"


# reverts while the block's time is below the word that it is called with
_NOT_BEFORE = bytes.fromhex("600c8060095f395ff3" + "5f354210600857005b5f5ffd")


def test_gas_is_estimated_as_of_the_time_of_the_next_block(rpc: Rpc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has sent anything for an hour: what was to wait for that long can be sent all the same."""
    digest = call_rpc(rpc, "eth_sendRawTransaction", transfer(data=_NOT_BEFORE, gas=200_000, to=None))["result"]
    contract = call_rpc(rpc, "eth_getTransactionReceipt", digest)["result"]["contractAddress"]
    head_s = int(call_rpc(rpc, "eth_getBlockByNumber", "latest", False)["result"]["timestamp"], 16)
    call = {"from": OWNER.address, "to": contract, "data": "0x" + (head_s + 3600).to_bytes(32, "big").hex()}
    assert call_rpc(rpc, "eth_estimateGas", call)["error"]["code"] == 3
    monkeypatch.setattr("gemel.embedded.chain.node.time.time", lambda: head_s + 3600.0)
    assert "result" in call_rpc(rpc, "eth_estimateGas", call)


def test_call_that_runs_out_of_gas_says_so(rpc: Rpc) -> None:
    deployment = load(DEVICE_REGISTRY).deployment(OWNER.address)
    error = call_rpc(rpc, "eth_call", {"data": "0x" + deployment.hex(), "gas": hex(200_000)})["error"]
    assert error["code"] == -32000


@pytest.mark.parametrize(
    "request_", [None, 5, "eth_chainId", {}, {"method": 5}, {"method": "eth_chainId", "params": {}}]
)
def test_what_is_no_request_is_answered_as_such(rpc: Rpc, request_: object) -> None:
    assert rpc.answer(request_)["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("text", "code"), [(b"", -32700), (b"{", -32700), (b"[]", -32600), (b"[" + b"1," * BATCH_LIMIT + b"1]", -32600)]
)
def test_what_does_not_parse_is_answered_as_such(text: bytes, code: int) -> None:
    with pytest.raises(RpcError) as caught:
        parse(text)
    assert caught.value.code == code


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("latest") | st.just(OWNER.address),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["to", "data", "topics", "x"]), inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rpc]:
    """One chain for all examples: that it still answers is the point."""
    opened = Store(tmp_path_factory.mktemp("rpc") / "chain.db")
    yield Rpc(Node(opened, CHAIN_ID, []), opened, lambda _: None)
    opened.close()


@given(data=st.data())
def test_any_parameters_are_answered_and_never_end_the_chain(patient: Rpc, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(sorted(patient._methods)))
    answer = patient.answer({"id": 1, "method": method, "params": data.draw(st.lists(_JSON, max_size=3))})
    assert ("result" in answer) != ("error" in answer)
    assert answer.get("error", {}).get("code") != -32603, answer
    orjson.dumps(answer)


# --- transactions ---------------------------------------------------------------------------------------


def test_transaction_rebuilds_from_what_a_node_shows(rpc: Rpc) -> None:
    raw = transfer(data=b"\x01\x02")
    digest = call_rpc(rpc, "eth_sendRawTransaction", raw)["result"]
    shown = call_rpc(rpc, "eth_getTransactionByHash", digest)["result"]
    as_web3_shows_it = {
        key: int(value, 16) if key in _NUMBERS else value if key in ("to", "accessList") else bytes.fromhex(value[2:])
        for key, value in shown.items()
    }
    assert "0x" + rebuild_transaction(as_web3_shows_it).hex() == raw


_NUMBERS = {
    "blockNumber", "transactionIndex", "type", "chainId", "nonce", "gas", "value", "v", "yParity", "maxFeePerGas",
    "maxPriorityFeePerGas", "gasPrice",
}  # fmt: skip


def test_opened_transaction_names_its_signer_and_content() -> None:
    opened = open_transaction(bytes.fromhex(transfer(nonce=3, data=b"\x05")[2:]))
    assert (opened.sender, opened.nonce, opened.chain_id, opened.data) == (OWNER.address, 3, CHAIN_ID, b"\x05")
    assert opened.to == "0x" + "22" * 20
