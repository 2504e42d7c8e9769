"""Sparkplug B as a host hears it: births give names, types and aliases, data is read by them, deaths silence. No I/O.

Aliases hold for one session of an edge node (NBIRTH to NDEATH) and over all its devices. Messages of a session carry
seq 0 to 255, around and around. When a birth is missing, or a number of that row, nobody can tell what an alias
means: the node's data then counts for nothing until it has said its births again, for which it is asked: at most once
in REBIRTH_S, and ever more rarely where that does not help. A death counts when its bdSeq is that of the session, or
when no session is known. A birth says again what holds, so a value that had become stale is good again without
a younger source time.

Members of a template instance are metrics of their own, `instance/member`; Booleans are 1 and 0.

An agent that starts in the middle of a session hears data first, and asks. It is a host, not the primary one: it
publishes no STATE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from edge_agent.sensing import sparkplug_payload
from edge_agent.sensing.decoding import Decoded, Heard, Message, in_future, reading
from edge_agent.sensing.mapping import ANY, ASSET, SPARKPLUG, SensorMap
from edge_agent.sensing.sparkplug_payload import Leaf
from edge_agent.sensing.values import Fault, Gauge, quality_of_code
from gemel.errors import Malformed
from gemel.twin.state import Quality

MAX_PAYLOAD_BYTES = 512 * 1024
MAX_METRICS = 4096  # in one message, instances of templates and their members included
PART = 512  # metrics that are read in one go: some 5 ms of the event loop, on a small gateway 20
MAX_NODE_METRICS = 16_384  # that one node may have announced
MAX_NODES = 256
REBIRTH_S, REBIRTH_AT_LEAST_S = 5.0, 320.0  # between two requests to one node: at first, and in the end
SEQUENCE: Final = 256
_LATEST_MS = 2**53
_BD_SEQ = b"bdSeq"
_NODE_KINDS, _DEVICE_KINDS = ("NBIRTH", "NDATA", "NDEATH"), ("DBIRTH", "DDATA", "DDEATH")
_OURS = ("NCMD", "DCMD", "STATE")  # what hosts say


@dataclass(frozen=True, slots=True)
class _Machine:
    """What a node or a device is to us: whose it is, and how its metrics are read."""

    asset: str
    gauges: Mapping[bytes, Gauge]  # by metric name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(gauge.name for gauge in self.gauges.values())


@dataclass(slots=True)
class _Metric:
    """What the birth said of a metric that the mapping wants, and the quality that was last said."""

    gauge: Gauge | None  # None for one that the mapping does not want
    datatype: int
    quality: Quality


@dataclass(slots=True)
class _Node:
    """One edge node's session."""

    born: bool = False
    bd_seq: int | None = None
    seq: int = 0
    gap: bool = False
    asked_s: float = float("-inf")
    patience_s: float = REBIRTH_S
    machines: dict[str, _Machine | None] = field(default_factory=dict)  # by device, of those that were born
    metrics: dict[tuple[str, tuple[int | bytes, ...]], _Metric] = field(default_factory=dict)  # by device and key


@dataclass(frozen=True, slots=True)
class _Said:
    """One message of a node: where it came from, and when."""

    group: str
    name: str
    device: str
    payload: Any
    now_ms: int
    monotonic_s: float

    def parts(self) -> Iterator[Sequence[Leaf]]:
        """Its metrics, PART by PART; one empty part where it has none."""
        leaves = sparkplug_payload.leaves(self.payload.metrics)
        part = tuple(islice(leaves, PART))
        yield part
        while part := tuple(islice(leaves, PART)):
            yield part


class _UnusableError(Exception):
    """A message that never gets as far as its session."""

    def __init__(self, fault: Fault, machine: _Machine | None = None) -> None:
        super().__init__(fault)
        self.fault, self.machine = fault, machine


class SparkplugHost:
    """Follows the sessions of the edge nodes in the mapping. `asset` is the agent's own."""

    def __init__(self, mapping: SensorMap, asset: str, asset_called: Callable[[str], str | None]) -> None:
        self._mapping, self._own, self._asset_called = mapping, asset, asset_called
        self._sources = [
            (one, {(p.called or name).encode(): Gauge.of(name, p, name) for name, p in one.properties.items()})
            for one in mapping.sparkplug
        ]
        self._nodes: dict[tuple[str, str], _Node] = {}

    def hear(self, topic: str, payload: bytes, now_ms: int, monotonic_s: float) -> Iterator[Heard]:
        """One message on a topic of Sparkplug's, part by part: take all of them. Total, as all decoding is."""
        _, group, kind, name, device = (*topic.split("/", 4), "", "", "", "")[:5]
        if kind in _OURS or group in _OURS:
            return
        try:
            self._check_topic(group, kind, name, device)
            machine = self._machine(group, name, device)
            message = _opened(payload, machine)
            node = self._node(group, name)
        except _UnusableError as unusable:
            yield self._refused(unusable.fault, unusable.machine)
            return
        said = _Said(group, name, device, message, now_ms, monotonic_s)
        yield from self._follow(node, kind, said, machine)

    def _node(self, group: str, name: str) -> _Node:
        if len(self._nodes) >= MAX_NODES and (group, name) not in self._nodes:
            raise _UnusableError(Fault.OVER_BOUND)
        return self._nodes.setdefault((group, name), _Node())

    def _follow(self, node: _Node, kind: str, said: _Said, machine: _Machine | None) -> Iterator[Heard]:
        if kind == "NBIRTH":
            yield from self._node_birth(node, said, machine)
        elif kind == "NDEATH":
            yield self._node_death(node, said)
        elif (refusal := self._out_of_order(node, said)) is not None:
            yield refusal
        elif kind == "DBIRTH":
            yield from self._birth(node, said, machine)
        elif kind == "DDEATH":
            _forget(node, said.device)
            yield _silenced([machine])
        else:
            yield from self._data(node, said)

    # --- births and deaths ----------------------------------------------------------------------

    def _node_birth(self, node: _Node, said: _Said, machine: _Machine | None) -> Iterator[Heard]:
        bd_seq = _bd_seq(said.payload)
        ended = list(node.machines.values()) if node.born and bd_seq != node.bd_seq else []
        node.born, node.bd_seq, node.gap = True, bd_seq, False
        node.seq = said.payload.seq % SEQUENCE
        node.machines.clear()
        node.metrics.clear()
        yield _silenced(ended)
        yield from self._birth(node, said, machine)

    def _node_death(self, node: _Node, said: _Said) -> Heard:
        if not node.born:
            return _silenced(self._machines_by_name(said.group, said.name))
        bd_seq = _bd_seq(said.payload)
        if None not in (bd_seq, node.bd_seq) and bd_seq != node.bd_seq:
            return self._refused(Fault.OLD_DEATH)
        dead = list(node.machines.values())
        node.born = False
        node.machines.clear()
        node.metrics.clear()
        return _silenced(dead)

    def _birth(self, node: _Node, said: _Said, machine: _Machine | None) -> Iterator[Heard]:
        _forget(node, said.device)
        node.machines[said.device] = machine
        if machine is None:
            return
        for part in said.parts():
            if len(node.metrics) + len(part) > MAX_NODE_METRICS:
                yield self._refused(Fault.OVER_BOUND, machine)
                return
            for leaf in part:
                known = _Metric(machine.gauges.get(leaf.name), leaf.metric.datatype, Quality.GOOD)
                node.metrics[said.device, leaf.key] = known
            decoded, _ = self._read(node, said, machine, part)
            yield Heard((replace(decoded, says_again=True),))

    # --- data -----------------------------------------------------------------------------------

    def _out_of_order(self, node: _Node, said: _Said) -> Heard | None:
        """The answer to a message that cannot be understood for want of others before it."""
        if not node.born:
            return self._ask(node, said, Fault.NOT_BORN)
        if not said.payload.HasField("seq"):
            return self._refused(Fault.MALFORMED)
        seq = said.payload.seq % SEQUENCE
        if seq == node.seq:
            return self._refused(Fault.DUPLICATE)
        node.gap = node.gap or seq != (node.seq + 1) % SEQUENCE
        node.seq = seq
        return self._ask(node, said, Fault.SEQUENCE_GAP) if node.gap else None

    def _data(self, node: _Node, said: _Said) -> Iterator[Heard]:
        if said.device not in node.machines:
            yield self._ask(node, said, Fault.NOT_BORN)
            return
        machine = node.machines[said.device]
        if machine is None:
            return
        strangers = False
        for part in said.parts():
            decoded, stranger = self._read(node, said, machine, part)
            strangers = strangers or stranger
            yield Heard((decoded,))
        if strangers:
            yield self._ask(node, said, Fault.NOT_BORN)

    def _read(self, node: _Node, said: _Said, machine: _Machine, part: Sequence[Leaf]) -> tuple[Decoded, bool]:
        """What some metrics say, and whether there is an alias among them that no birth has explained."""
        readings, suspects, fault, stranger = [], {}, None, False
        for leaf in part:
            known = node.metrics.get((said.device, leaf.key))
            if known is None:
                stranger = stranger or isinstance(leaf.key[0], int)
                continue
            if leaf.quality is not None:
                known.quality = quality_of_code(leaf.quality)
            if (gauge := known.gauge) is None:
                continue
            time_ms = leaf.time_ms or said.payload.timestamp
            if wrong := self._wrong_time(time_ms, said.now_ms):
                fault, suspects[gauge.name] = wrong, gauge.unit
                continue
            given = sparkplug_payload.number(leaf.metric, leaf.metric.datatype or known.datatype)
            readings.append(reading(gauge, given, time_ms, said.now_ms, known.quality))
        return Decoded(machine.asset, tuple(readings), fault=fault, suspects=suspects), stranger

    def _wrong_time(self, time_ms: int, now_ms: int) -> Fault | None:
        if not 0 < time_ms <= _LATEST_MS:
            return Fault.NO_TIME
        return Fault.IN_FUTURE if in_future(time_ms, now_ms, self._mapping) else None

    def _ask(self, node: _Node, said: _Said, fault: Fault) -> Heard:
        """Refuse, and ask for the births, unless that was done a moment ago."""
        waited_s = said.monotonic_s - node.asked_s
        if waited_s < node.patience_s:
            return self._refused(fault)
        node.patience_s = (
            REBIRTH_S if waited_s > 4 * node.patience_s else min(2 * node.patience_s, REBIRTH_AT_LEAST_S)
        )
        node.asked_s = said.monotonic_s
        topic = f"{SPARKPLUG}/{said.group}/NCMD/{said.name}"
        command = Message(topic, sparkplug_payload.rebirth_command(said.now_ms))
        return Heard(self._refused(fault).decoded, command)

    # --- the mapping ----------------------------------------------------------------------------

    def _check_topic(self, group: str, kind: str, name: str, device: str) -> None:
        wanted = any(one.group == group and one.node in (name, ANY, ASSET) for one, _ in self._sources)
        if not wanted or kind not in (_DEVICE_KINDS if device else _NODE_KINDS):
            raise _UnusableError(Fault.UNKNOWN_TOPIC)

    def _machine(self, group: str, name: str, device: str) -> _Machine | None:
        """What the first source that speaks of it makes of it."""
        for one, gauges in self._sources:
            fits = one.device == device or (device != "" and one.device in (ANY, ASSET))
            if one.group == group and one.node in (name, ANY, ASSET) and fits:
                called = device if one.device == ASSET else name if one.node == ASSET else None
                asset = self._own if called is None else self._asset_called(called)
                if asset is None:
                    raise _UnusableError(Fault.BAD_NAME)
                return _Machine(asset, gauges)
        return None

    def _machines_by_name(self, group: str, name: str) -> list[_Machine | None]:
        """Those of a node's machines that the mapping itself names."""
        named = {one.device for one, _ in self._sources if one.group == group and one.device not in (ANY, ASSET)}
        return [self._machine(group, name, device) for device in sorted(named)]

    def _refused(self, fault: Fault, machine: _Machine | None = None) -> Heard:
        if machine is None:
            return Heard((Decoded(self._own, fault=fault),))
        suspects = {gauge.name: gauge.unit for gauge in machine.gauges.values()}
        return Heard((Decoded(machine.asset, fault=fault, suspects=suspects),))


def _opened(payload: bytes, machine: _Machine | None) -> Any:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _UnusableError(Fault.HUGE, machine)
    try:
        message = sparkplug_payload.parse(payload)
    except Malformed:
        raise _UnusableError(Fault.MALFORMED, machine) from None
    if sparkplug_payload.has_more_than(message.metrics, MAX_METRICS):
        raise _UnusableError(Fault.HUGE, machine)
    return message


def _bd_seq(payload: Any) -> int | None:
    for metric in payload.metrics:
        if metric.name == _BD_SEQ:
            return int(metric.long_value if metric.HasField("long_value") else metric.int_value)
    return None


def _forget(node: _Node, device: str) -> None:
    """A device's birth or death ends what was said of it before."""
    if node.machines.pop(device, None) is not None:
        node.metrics = {key: metric for key, metric in node.metrics.items() if key[0] != device}


def _silenced(machines: Iterable[_Machine | None]) -> Heard:
    return Heard(tuple(Decoded(one.asset, silenced=one.names) for one in machines if one is not None))
