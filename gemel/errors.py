"""Every error of Gemel, in one tree, split by whose fault it is.

    GemelError
    ├── ConfigError        the operator's: a file or key is wrong       → say which, and what is allowed
    ├── PeerError          another party's: what it sent does not hold  → refuse it, go on
    │   ├── Refused        …with a typed reason (a frame, a model, a message)
    │   └── Malformed      …because its bytes are not of the form they claim
    ├── Unavailable        nobody's: a broker, chain or store is away   → wait and try again
    │   ├── BusUnavailable
    │   ├── ChainUnavailable
    │   └── StoreUnavailable
    ├── BusRefused         the broker said no (an MQTT reason code ≥ 0x80)
    ├── ChainReverted      a contract said no (a custom error with its values)
    └── IllegalEvent       ours: the round machine was handed an event that its state does not take

Each says in one line what is wrong and, where somebody can do something, what. Values are attributes,
so that metrics and receipts need not parse text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class GemelError(Exception):
    """Base of everything this project raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process raises them too. Pickle's own way calls __init__ with the finished message, which fails
        # for every class that builds it from values, and the caller would hear of a worker that died instead.
        return _revived, (type(self), self.args, self.__dict__)


def _revived(kind: type[GemelError], args: tuple[object, ...], attributes: dict[str, object]) -> GemelError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ConfigError(GemelError):
    """A configuration file or environment variable is wrong. One line: where, which key, what is allowed."""

    def __init__(self, source: str, key: str, allowed: str) -> None:
        super().__init__(f"{source}: {key}: {allowed}")
        self.source, self.key, self.allowed = source, key, allowed


class PeerError(GemelError):
    """Another party sent something that does not hold."""


class Malformed(PeerError):
    """Bytes are not of the form they claim. `what` names the form, `detail` the first thing that is off."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"malformed {what}: {detail}")
        self.what, self.detail = what, detail


class Refused(PeerError):
    """A message, frame or model is refused for `reason` (a member of gemel.wire.reasons.Reason)."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"refused: {reason}" + (f" ({detail})" if detail else ""))
        self.reason, self.detail = reason, detail


class Unavailable(GemelError):
    """A server we depend on is away; trying again later is right."""


class BusUnavailable(Unavailable):
    """No link to the broker."""


class ChainUnavailable(Unavailable):
    """No chain node answers, or it answers nonsense."""


class StoreUnavailable(Unavailable):
    """The store cannot be reached or written."""


class BusRefused(GemelError):
    """The broker refused with an MQTT 5 reason code ≥ 0x80 (MQTT 5.0, section 2.4)."""

    def __init__(self, action: str, topic: str, code: int, name: str) -> None:
        super().__init__(f"broker refused to {action} {topic!r}: {name} (0x{code:02x})")
        self.action, self.topic, self.code, self.name = action, topic, code, name


class ChainReverted(GemelError):
    """A contract refused a call. `error` is the custom error's name, `values` its arguments."""

    def __init__(self, call: str, error: str, values: Mapping[str, object] | None = None) -> None:
        self.call, self.error, self.values = call, error, dict(values or {})
        shown = ", ".join(f"{k}={v}" for k, v in self.values.items())
        super().__init__(f"{call} reverted: {error}({shown})")


class IllegalEvent(GemelError):
    """The round machine got an event that its state does not take; the state is unchanged."""

    def __init__(self, state: str, event: str) -> None:
        super().__init__(f"round is {state}: {event} is not legal here")
        self.state, self.event = state, event
