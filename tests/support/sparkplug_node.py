"""A Sparkplug B edge node made of pysparkplug 0.6.1, for an environment of its own: run by tests, never imported.

    python sparkplug_node.py PORT

Commands come on standard input, one a line: `data DEGF` by alias alone, `skip` a sequence number, `quit`. It says its
births at start and whenever a host asks, and prints what it did.
"""

from __future__ import annotations

import itertools
import sys
import time

import pysparkplug as psp

GROUP, NODE, DEVICE = "hall", "edge", "Press 1"
BD_SEQ = psp.Metric(timestamp=0, name="bdSeq", datatype=psp.DataType.INT64, value=3)


def now_ms() -> int:
    return int(time.time() * 1000)


class Node:
    """Its session."""

    def __init__(self, port: int) -> None:
        self._client = psp.Client()
        self._seq = itertools.cycle(range(256))
        death = psp.NDeath(timestamp=now_ms(), bd_seq_metric=BD_SEQ)
        self._client.set_will(self._message("NDEATH", death))
        command = psp.Topic(message_type=psp.MessageType.NCMD, group_id=GROUP, edge_node_id=NODE)
        self._client.subscribe(command, psp.QoS.AT_LEAST_ONCE, self._obey)
        self._client.connect("127.0.0.1", port=port, callback=lambda _: self.birth())

    def birth(self) -> None:
        self._seq = itertools.cycle(range(256))
        self._say("NBIRTH", psp.NBirth(timestamp=now_ms(), seq=next(self._seq), metrics=(BD_SEQ,)))
        metrics = (
            self._metric("Temperature/Oil", 7, psp.DataType.DOUBLE, 212.0),
            self._metric("Steps", 8, psp.DataType.INT16, -5),
            self._metric("Total", 9, psp.DataType.INT64, -(2**35)),
            self._metric("Running", 10, psp.DataType.BOOLEAN, True),
        )
        self._say("DBIRTH", psp.DBirth(timestamp=now_ms(), seq=next(self._seq), metrics=metrics))
        print("born", flush=True)

    def data(self, fahrenheit: float) -> None:
        metric = self._metric(None, 7, psp.DataType.DOUBLE, fahrenheit)
        self._say("DDATA", psp.DData(timestamp=now_ms(), seq=next(self._seq), metrics=(metric,)))
        print("told", flush=True)

    def skip(self) -> None:
        next(self._seq)

    def _obey(self, _: psp.Client, message: psp.Message) -> None:
        (metric,) = message.payload.metrics
        if metric.name == "Node Control/Rebirth" and metric.value is True:
            print("asked", flush=True)
            self.birth()

    def _metric(self, name: str | None, alias: int, datatype: psp.DataType, value: float) -> psp.Metric:
        return psp.Metric(timestamp=now_ms(), name=name, datatype=datatype, value=value, alias=alias)

    def _say(self, kind: str, payload: object) -> None:
        self._client.publish(self._message(kind, payload))

    def _message(self, kind: str, payload: object) -> psp.Message:
        device = DEVICE if kind.startswith("D") else None
        topic = psp.Topic(group_id=GROUP, message_type=psp.MessageType(kind), edge_node_id=NODE, device_id=device)
        return psp.Message(topic=topic, payload=payload, qos=psp.QoS.AT_MOST_ONCE, retain=False)


node = Node(int(sys.argv[1]))
for line in sys.stdin:
    word, _, argument = line.strip().partition(" ")
    if word == "data":
        node.data(float(argument))
    elif word == "skip":
        node.skip()
