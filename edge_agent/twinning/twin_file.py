"""What may be set on the machine, and what raises an alert: the file that `twin_file` names.

[actuator.speed]                          # the property that may be asked for
unit = "rpm"                              # requests in another unit are refused
minimum = 0
maximum = 3000
topic = "plant/{asset}/commands/speed"    # where the machine takes commands, on the bus that its readings come over,
payload = '{"rpm": $value, "id": "$id"}'  # in its own words; default "$value"
tolerance = 5                             # applied once the machine reports the value within it
reported = "speed"                        # in this property; default: its own name
retry_s = 1.0                             # the command is sent again after so long, then after twice that, …

[actuator.valve]
unit = "%"
plugin = "rig1_io:valve"                  # or an object with `async apply(property, value)`; without a tolerance
                                          # its return is the machine's word

[[alert]]                                 # see gemel/twin/alerts.py
id = "hot-oil"
property = "TS1"
above = 70

Alerts are raised for every machine whose twin the agent keeps. Actuators are those of its own asset; where the topic
holds `{asset}` as a level, they are those of the others, too, each under the plant's own name for it.
"""

from __future__ import annotations

import importlib
import re
from string import Template
from typing import Annotated, Final, Protocol, runtime_checkable

import msgspec
from msgspec.structs import replace

from edge_agent.sensing.mapping import ASSET
from gemel.errors import ConfigError
from gemel.twin.alerts import AlertRule, check
from gemel.twin.state import Name, Settable

WORDS: Final = frozenset({"id", "property", "value", "unit", "deadline_ms"})  # that a payload may contain


@runtime_checkable
class Actuator(Protocol):
    """A plug-in that makes the machine do something."""

    async def apply(self, property_: str, value: float) -> None:
        """Bring the property to `value`, in the unit of the file. Called again until that is so or the deadline is.

        May be cancelled. Raises Refused where trying again is no use; anything else that it raises is tried again.
        """
        ...


class ActuatorMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one property is set: by command topic or by plug-in."""

    unit: str
    topic: str = ""
    payload: str = "$value"
    plugin: str = ""
    minimum: float | None = None
    maximum: float | None = None
    tolerance: Annotated[float, msgspec.Meta(ge=0)] | None = None
    reported: Name | None = None
    retry_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0

    @property
    def settable(self) -> Settable:
        """What the twin says of it."""
        return Settable(self.unit, self.minimum, self.maximum)


class TwinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    actuator: dict[Name, ActuatorMap] = {}
    alert: tuple[AlertRule, ...] = ()

    def actuators(self, called: str, *, own: bool) -> dict[str, ActuatorMap]:
        """Those of the machine that the plant calls so; `own`: the agent's own asset."""
        return {
            name: replace(actuator, topic=actuator.topic.replace(ASSET, called))
            for name, actuator in self.actuator.items()
            if own or ASSET in actuator.topic
        }


def load_twin_file(data: bytes, source: str) -> TwinFile:
    """Read the file. Raises ConfigError naming the file and the key."""
    try:
        file = msgspec.toml.decode(data, type=TwinFile)
    except msgspec.DecodeError as error:
        raise ConfigError(source, "twin file", str(error)) from error
    check(file.alert, source)
    for name, actuator in file.actuator.items():
        _check(actuator, source, f"actuator.{name}")
    return file


def load_plugin(path: str, where: str) -> Actuator:
    """The actuator at an import path such as `rig1_io:valve`. Raises ConfigError."""
    module_name, _, attribute = path.partition(":")
    try:
        plugin = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(where, "plugin", f"module:object with `async apply(property, value)` ({error})") from error
    if isinstance(plugin, type) or not isinstance(plugin, Actuator):
        raise ConfigError(where, "plugin", f"an object with `async apply(property, value)`, not {path}")
    return plugin


def _check(actuator: ActuatorMap, source: str, where: str) -> None:
    if bool(actuator.topic) == bool(actuator.plugin):
        raise ConfigError(source, where, "either topic or plugin")
    if actuator.topic and actuator.tolerance is None:
        raise ConfigError(source, f"{where}.tolerance", "needed beside topic: how else would it be known as applied")
    if re.search(r"[{}]", actuator.topic.replace(ASSET, "")) or any(
        ASSET in level and level != ASSET for level in actuator.topic.split("/")
    ):
        raise ConfigError(source, f"{where}.topic", f"whole levels {ASSET} only")
    if any(mark in actuator.topic for mark in "+#\0") or actuator.topic.startswith(("gemel/", "$")):
        raise ConfigError(source, f"{where}.topic", "a topic of the plant without + and #")
    template = Template(actuator.payload)
    if not template.is_valid() or not WORDS.issuperset(template.get_identifiers()):
        raise ConfigError(source, f"{where}.payload", f"of $words only {', '.join(sorted(WORDS))}; $$ is a $")
    if actuator.minimum is not None and actuator.maximum is not None and actuator.minimum > actuator.maximum:
        raise ConfigError(source, f"{where}.minimum", f"at most the maximum, {actuator.maximum}")
