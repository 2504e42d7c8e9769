"""The protobuf message of Sparkplug B, as far as a host needs it: field numbers of the Eclipse Sparkplug
specification 3.0, section 6.4 (sparkplug_b.proto, package org.eclipse.tahu.protobuf). Other fields are skipped.

Built at run time from the table below, so that no generated module ties us to one protobuf release.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from gemel.errors import Malformed

_PACKAGE: Final = "org.eclipse.tahu.protobuf"
_VALUES: Final = frozenset(
    {"int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value", "template_value"}
)
_FIELDS: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "Payload": {"timestamp": (1, "uint64"), "metrics": (2, "repeated Metric"), "seq": (3, "uint64")},
    "Metric": {
        "name": (1, "bytes"),
        "alias": (2, "uint64"),
        "timestamp": (3, "uint64"),
        "datatype": (4, "uint32"),
        "is_null": (7, "bool"),
        "properties": (9, "PropertySet"),
        "int_value": (10, "uint32"),
        "long_value": (11, "uint64"),
        "float_value": (12, "float"),
        "double_value": (13, "double"),
        "boolean_value": (14, "bool"),
        "string_value": (15, "bytes"),
        "template_value": (18, "Template"),
    },
    "Template": {"metrics": (2, "repeated Metric"), "is_definition": (5, "bool")},
    "PropertySet": {"keys": (1, "repeated bytes"), "values": (2, "repeated PropertyValue")},
    "PropertyValue": {"int_value": (3, "uint32"), "long_value": (4, "uint64")},
}

BOOLEAN: Final = 11
SIGNED_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64}  # Int8 to Int64: they arrive as unsigned numbers
NUMBERS: Final = range(1, 11)  # Int8 to Double


class Leaf(NamedTuple):
    """A metric that holds a value: one of the payload's own, or a member of a template instance among them.

    `key` is what finds it again in later data: alias or name, and the members' names below. `name` is whole only in
    births: `Motor/Speed` is the member Speed of the instance Motor. Time (0: none) and quality code (None) are the
    instance's where the member has none.
    """

    key: tuple[int | bytes, ...]
    name: bytes
    metric: Any
    time_ms: int
    quality: int | None


def leaves(metrics: Iterable[Any]) -> Iterator[Leaf]:
    """Every value in the metrics of a payload, in order. Definitions of templates have none."""
    for metric in metrics:
        key = metric.alias if metric.HasField("alias") else metric.name
        quality = _quality_code(metric)
        if not metric.HasField("template_value"):
            yield Leaf((key,), metric.name, metric, metric.timestamp, quality)
        elif not metric.template_value.is_definition:
            for leaf in leaves(metric.template_value.metrics):  # as deep as protobuf parses: 100
                yield Leaf(
                    (key, *leaf.key),
                    metric.name + b"/" + leaf.name,
                    leaf.metric,
                    leaf.time_ms or metric.timestamp,
                    quality if leaf.quality is None else leaf.quality,
                )


def has_more_than(metrics: Iterable[Any], most: int) -> bool:
    """Whether there are more metrics than that, instances of templates and their members counted one by one."""
    return sum(1 for _ in islice(_all(metrics), most + 1)) > most


def _all(metrics: Iterable[Any]) -> Iterator[Any]:
    for metric in metrics:
        yield metric
        if metric.HasField("template_value"):
            yield from _all(metric.template_value.metrics)


def parse(payload: bytes) -> Any:
    """The Payload message. Raises Malformed."""
    try:
        return _PAYLOAD.FromString(payload)
    except DecodeError as error:
        raise Malformed("Sparkplug payload", str(error)) from error


def rebirth_command(now_ms: int) -> bytes:
    """The payload of an NCMD that asks an edge node to say its births again."""
    payload = _PAYLOAD(timestamp=now_ms)
    payload.metrics.add(name=b"Node Control/Rebirth", timestamp=now_ms, datatype=BOOLEAN, boolean_value=True)
    return bytes(payload.SerializeToString())


def number(metric: Any, datatype: int) -> float | int | None:
    """The metric's value as a number, signed where its datatype is; None where it is null or no number.

    A Boolean is 1 or 0.
    """
    if metric.is_null or datatype not in (*NUMBERS, BOOLEAN):
        return None
    field = metric.WhichOneof("value")
    if datatype == BOOLEAN:
        return int(metric.boolean_value) if field == "boolean_value" else None
    if field not in ("int_value", "long_value", "float_value", "double_value"):
        return None
    value: float | int = getattr(metric, field)
    if isinstance(value, int) and (bits := SIGNED_BITS.get(datatype)):
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    return value


def _quality_code(metric: Any) -> int | None:
    """The property `Quality`: 192 good, 0 bad, 500 stale; None where the metric says nothing of it."""
    if not metric.HasField("properties"):
        return None
    for key, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        if key == b"Quality":
            return int(value.int_value if value.HasField("int_value") else value.long_value)
    return None


def _message_class() -> Any:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="gemel/sparkplug_b.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        if name == "Metric":
            message.oneof_decl.add(name="value")
        for field, (tag, kind) in fields.items():
            repeated, plain = kind.startswith("repeated "), kind.removeprefix("repeated ")
            added = message.field.add(name=field, number=tag)
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if plain in _FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            else:
                added.type = getattr(kinds, f"TYPE_{plain.upper()}")
            if name == "Metric" and field in _VALUES:
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


_PAYLOAD: Final = _message_class()
