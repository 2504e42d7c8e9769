"""The two contracts' ABI as data: calls to bytes, and bytes to results, events and errors.

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
        """Call data. Digests may be given as hex, as everywhere in Python."""
        types = [_type(each) for each in self.inputs]
        return self.selector + bytes(encode(types, [_to_abi(t, a) for t, a in zip(types, arguments, strict=True)]))

    def decode_result(self, data: bytes) -> Any:
        """The single return value; a struct is a dict by field name, an array a list. Raises Malformed."""
        (output,) = self.outputs
        (value,) = _decode(self.name, [_type(output)], data)
        return _from_abi(output, value)

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
    constructor: Sequence[str]  # argument types
    functions: Mapping[str, Entry]
    events: Mapping[bytes, Entry]  # by topic 0
    errors: Mapping[bytes, Entry]  # by selector

    def deployment(self, *arguments: object) -> bytes:
        """The data of the transaction that creates this contract."""
        return self.bytecode + bytes(encode(self.constructor, arguments))


@cache
def load(name: str) -> Contract:
    """A contract by its name, as contracts/generated has it."""
    raw = msgspec.json.decode(files("contracts").joinpath("generated", f"{name}.json").read_bytes())
    by_kind: dict[str, list[Entry]] = {"function": [], "event": [], "error": []}
    constructor: list[str] = []
    for item in raw["abi"]:
        if item["type"] == "constructor":
            constructor = [_type(each) for each in item["inputs"]]
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

_REQUIRE = Entry("Error", bytes.fromhex("08c379a0"), [{"name": "reason", "type": "string"}], ())
_PANIC = Entry("Panic", bytes.fromhex("4e487b71"), [{"name": "code", "type": "uint256"}], ())


def decode_error(data: bytes) -> tuple[str, Values]:
    """Name and values of a revert: one of our errors, Solidity's Error or Panic, else `Unknown` with the bytes."""
    known = {_REQUIRE.selector: _REQUIRE, _PANIC.selector: _PANIC}
    entry = (known | dict(load(DEVICE_REGISTRY).errors) | dict(load(ROUND_REGISTRY).errors)).get(data[:4])
    try:
        if entry is not None:
            return entry.name, entry.decode_inputs(data[4:])
    except Malformed:
        pass  # right selector, wrong arguments: not one of ours after all
    return "Unknown", {"data": data.hex()}


def decode_event(topics: Sequence[bytes], data: bytes) -> tuple[str, Values] | None:
    """Name and values of a log of either contract; None if neither declares it. Raises Malformed."""
    for name in (DEVICE_REGISTRY, ROUND_REGISTRY):
        entry = load(name).events.get(topics[0]) if topics else None
        if entry is not None:
            return entry.name, entry.decode_log(topics, data)
    return None


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


def _to_abi(kind: str, value: object) -> object:
    return bytes.fromhex(value) if kind.startswith("bytes") and isinstance(value, str) else value


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
