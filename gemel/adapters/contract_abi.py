"""The contracts' ABI as data: calls to bytes, and bytes to results, events and errors.

Stands on eth-abi alone, so that the offline auditor decodes a kept chain without web3. Values are in the text forms
of gemel.wire.types at this edge: bytes32 and bytes as hex without a prefix, addresses in lower case with `0x`,
enums and integers as int.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak

from gemel.errors import Malformed

Values = dict[str, object]


@dataclass(frozen=True, slots=True)
class Entry:
    """A function, event or error of a contract."""

    name: str
    selector: bytes  # 4 bytes; of an event all 32
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]

    def encode(self, *arguments: object) -> bytes:
        """Call data. Digests may be given as hex, as everywhere in Python; a struct is a sequence of its fields."""
        return self.selector + _encode(self.inputs, arguments)

    def decode_result(self, data: bytes) -> Any:
        """What a function returns: a struct is a dict by field name, an array a list; several values are a tuple.

        Raises Malformed.
        """
        values = _decode(self.name, [_type(output) for output in self.outputs], data)
        found = tuple(_from_abi(output, value) for output, value in zip(self.outputs, values, strict=True))
        return found[0] if len(found) == 1 else found

    def decode_inputs(self, data: bytes) -> Values:
        """The arguments of a call or an error, by name; `data` without the selector. Raises Malformed."""
        values = _decode(self.name, [_type(each) for each in self.inputs], data)
        return {each["name"]: _from_abi(each, value) for each, value in zip(self.inputs, values, strict=True)}

    def decode_log(self, topics: Sequence[bytes], data: bytes) -> Values:
        """An event's values, by name and in the order of its declaration. Raises Malformed."""
        indexed = [each for each in self.inputs if each["indexed"]]
        plain = [each for each in self.inputs if not each["indexed"]]
        if len(topics) != 1 + len(indexed):
            raise Malformed(self.name, f"{len(topics)} topics, {1 + len(indexed)} expected")
        by_name = {
            each["name"]: _decode(self.name, [_type(each)], topic)[0]
            for each, topic in zip(indexed, topics[1:], strict=True)
        }
        values = _decode(self.name, [_type(each) for each in plain], data)
        by_name |= {each["name"]: value for each, value in zip(plain, values, strict=True)}
        return {each["name"]: _from_abi(each, by_name[each["name"]]) for each in self.inputs}


@dataclass(frozen=True, slots=True)
class Contract:
    """One compiled contract, from contracts/generated."""

    name: str
    bytecode: bytes
    constructor: Sequence[Mapping[str, Any]]  # its inputs
    functions: Mapping[str, Entry]
    events: Mapping[bytes, Entry]  # by topic 0
    errors: Mapping[bytes, Entry]  # by selector

    def deployment(self, *arguments: object) -> bytes:
        """The data of the transaction that creates this contract."""
        return self.bytecode + _encode(self.constructor, arguments)


@cache
def load(name: str) -> Contract:
    """A contract by its name, as contracts/generated has it."""
    raw = msgspec.json.decode(files("contracts").joinpath("generated", f"{name}.json").read_bytes())
    by_kind: dict[str, list[Entry]] = {"function": [], "event": [], "error": []}
    constructor: Sequence[Mapping[str, Any]] = ()
    for item in raw["abi"]:
        if item["type"] == "constructor":
            constructor = item["inputs"]
            continue
        if item["type"] not in by_kind:
            continue  # receive: takes ether, has no name
        signature = f"{item['name']}({','.join(_type(each) for each in item['inputs'])})"
        topic = bytes(keccak(signature.encode()))
        selector = topic if item["type"] == "event" else topic[:4]
        by_kind[item["type"]].append(Entry(item["name"], selector, item["inputs"], item.get("outputs", ())))
    return Contract(
        name=name,
        bytecode=bytes.fromhex(raw["bytecode"].removeprefix("0x")),
        constructor=constructor,
        functions={entry.name: entry for entry in by_kind["function"]},
        events={entry.selector: entry for entry in by_kind["event"]},
        errors={entry.selector: entry for entry in by_kind["error"]},
    )


DEVICE_REGISTRY, ROUND_REGISTRY = "DeviceRegistry", "RoundRegistry"
STAKE_TOKEN, ELECTION, QUALITY_VOTES, TRUST = "StakeToken", "Election", "QualityVotes", "Trust"
ASSET_REGISTRY, DATA_SHARING = "AssetRegistry", "DataSharing"
MAINTENANCE, AUDIT_ANCHORS, ADMINISTRATION = "Maintenance", "AuditAnchors", "Administration"
CONTRACTS = (
    *(DEVICE_REGISTRY, ROUND_REGISTRY, STAKE_TOKEN, ELECTION, QUALITY_VOTES, TRUST),
    *(ASSET_REGISTRY, DATA_SHARING, MAINTENANCE, AUDIT_ANCHORS, ADMINISTRATION),
)

_REQUIRE = Entry("Error", bytes.fromhex("08c379a0"), [{"name": "reason", "type": "string"}], ())
_PANIC = Entry("Panic", bytes.fromhex("4e487b71"), [{"name": "code", "type": "uint256"}], ())


@cache
def _errors() -> Mapping[bytes, Entry]:
    """Every error of every contract: one reverts with another's when it calls it."""
    known = {_REQUIRE.selector: _REQUIRE, _PANIC.selector: _PANIC}
    for name in CONTRACTS:
        known |= load(name).errors
    return known


def decode_error(data: bytes) -> tuple[str, Values]:
    """Name and values of a revert: one of our errors, Solidity's Error or Panic, else `Unknown` with the bytes."""
    entry = _errors().get(data[:4])
    try:
        if entry is not None:
            return entry.name, entry.decode_inputs(data[4:])
    except Malformed:
        pass  # right selector, wrong arguments: not one of ours after all
    return "Unknown", {"data": data.hex()}


def decode_event(contract: str, topics: Sequence[bytes], data: bytes) -> tuple[str, Values] | None:
    """Name and values of a log of `contract`; None for an event that it does not declare. Raises Malformed."""
    entry = load(contract).events.get(topics[0]) if topics else None
    return None if entry is None else (entry.name, entry.decode_log(topics, data))


def _decode(what: str, types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    try:
        return decode(types, data)
    except (DecodingError, ValueError, OverflowError) as error:
        raise Malformed(what, str(error)) from error


def _type(item: Mapping[str, Any]) -> str:
    kind: str = item["type"]
    if kind.startswith("tuple"):
        return f"({','.join(_type(each) for each in item['components'])}){kind.removeprefix('tuple')}"
    return kind


def _encode(inputs: Sequence[Mapping[str, Any]], arguments: Sequence[object]) -> bytes:
    values = [_to_abi(each, argument) for each, argument in zip(inputs, arguments, strict=True)]
    return bytes(encode([_type(each) for each in inputs], values))


def _to_abi(item: Mapping[str, Any], value: Any) -> Any:
    kind: str = item["type"]
    if kind.endswith("[]"):
        element = dict(item, type=kind.removesuffix("[]"))
        return [_to_abi(element, each) for each in value]
    if kind == "tuple":
        return tuple(_to_abi(each, field) for each, field in zip(item["components"], value, strict=True))
    if kind.startswith("bytes") and isinstance(value, str):
        return bytes.fromhex(value)
    return value


def _from_abi(item: Mapping[str, Any], value: Any) -> Any:
    kind: str = item["type"]
    if kind == "tuple":
        fields = zip(item["components"], value, strict=True)
        return {each["name"]: _from_abi(each, field) for each, field in fields}
    if kind.endswith("[]"):
        element = dict(item, type=kind.removesuffix("[]"))
        return [_from_abi(element, each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.lower() if kind == "address" else value
