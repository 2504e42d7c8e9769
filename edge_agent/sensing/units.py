"""Units, checked and converted by Pint at start; a reading is then one multiplication and one addition.

Pint takes more than a second to load, so what needs no conversion and is known to be a unit does not load it.
Beware that Pint's revolution is an angle: 1 rpm = 2 pi / min. Say `rpm` at both ends.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

# A test holds these against Pint.
COMMON: Final = frozenset(
    {"", "%", "1", "A", "Hz", "K", "N", "Pa", "V", "W", "bar", "count", "degC", "degF", "g", "h", "kPa", "kW", "kWh"}
    | {"kg", "l", "l/min", "m", "m/s", "m^3/h", "mA", "mV", "mbar", "min", "mm", "mm/s", "ms", "rpm", "s"}
)
_FAR = 1000.0  # a slope measured so far out loses nothing beside an offset


class Line(NamedTuple):
    """value in the twin = factor * value at the source + offset."""

    factor: float
    offset: float


SAME: Final = Line(1.0, 0.0)


@cache
def conversion(source_unit: str, unit: str) -> Line:
    """The line from one unit to the other. Raises ValueError saying why there is none."""
    if source_unit == unit:
        if unit not in COMMON:
            _check(unit)
        return SAME
    pint = _registry()
    for name in (source_unit, unit):
        _check(name)
    try:
        origin, one, far = (float(pint.Quantity(x, source_unit).to(unit).magnitude) for x in (0.0, 1.0, _FAR))
    except Exception as error:  # Pint's errors have no common base, and its arithmetic adds its own
        raise ValueError(f"a unit that converts to {unit}, not {source_unit} ({error})") from error
    line = Line((far - origin) / _FAR, origin)
    if not abs(line.factor + line.offset - one) <= 1e-9 * max(1.0, abs(one), abs(line.factor)):
        raise ValueError(f"a unit that stands in a straight line to {unit}; {source_unit} does not")
    return line


def _check(unit: str) -> None:
    try:
        _registry().Unit(unit)
    except Exception as error:  # as above, and its parser raises what Python's tokenizer does
        raise ValueError(f"a unit that Pint knows, not {unit!r} ({error})") from error


@cache
def _registry() -> Any:
    import pint  # noqa: PLC0415  0.8 s, and 0.5 s more for the registry, only where it is needed

    return pint.UnitRegistry()
