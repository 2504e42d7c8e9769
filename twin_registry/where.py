"""Conditions on a twin's properties, as they stand in a query: `TS1>40`, `health.cooler.condition==near_failure`.

    condition = address operator value
    address   = letters, digits and . _ -                  (gemel/twin/addresses.py)
    operator  = ==  !=  >=  <=  >  <
    value     = a number, a word of letters, digits and . _ -, or text in double quotes (\\" and \\\\ within)

A condition holds only where something trustworthy stands: what is stale, bad or absent fulfils none, not even `!=`.
Numbers are compared with numbers and texts with texts; two kinds are never equal, and texts have no order.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gemel.errors import Malformed
from gemel.twin.addresses import look_up
from gemel.twin.state import Twin

MAX_LENGTH = 256

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION: Final = re.compile(
    r'([A-Za-z0-9][A-Za-z0-9._-]*)\s*(==|!=|>=|<=|>|<)\s*(?:"((?:[^"\\]|\\["\\])*)"|([A-Za-z0-9+._-]+))', re.ASCII
)
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `str()` writes it so that `parse` reads it again."""

    address: str
    compare: str
    value: float | str

    def holds(self, twin: Twin) -> bool:
        """Whether the twin fulfils it."""
        known = look_up(twin, self.address)
        if known is None or not known.trusted:
            return False
        if isinstance(known.value, str) or isinstance(self.value, str):
            if not (isinstance(known.value, str) and isinstance(self.value, str)):
                return self.compare == "!="
            if self.compare not in ("==", "!="):
                return False
        return _OPERATORS[self.compare](known.value, self.value)

    def __str__(self) -> str:
        if isinstance(self.value, str):
            escaped = self.value.replace("\\", "\\\\").replace('"', '\\"')
            return f'{self.address}{self.compare}"{escaped}"'
        return f"{self.address}{self.compare}{self.value!r}"


def parse(text: str) -> Condition:
    """Raises Malformed saying what a condition looks like."""
    found = _CONDITION.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
    if found is None:
        shown = text if len(text) <= 40 else text[:40] + "…"
        raise Malformed("condition", f"{shown!r} is not of the form TS1>40 or health.cooler.condition==near_failure")
    address, compare, quoted, word = found.groups()
    if quoted is not None:
        return Condition(address, compare, re.sub(r'\\(["\\])', r"\1", quoted))
    if _NUMBER.fullmatch(word):
        number = float(word)
        if not math.isfinite(number):
            raise Malformed("condition", f"{word} is beyond what a number can hold")
        return Condition(address, compare, number)
    return Condition(address, compare, word)


def fulfils(twin: Twin, conditions: Iterable[Condition]) -> bool:
    """Whether all of them hold."""
    return all(condition.holds(twin) for condition in conditions)
