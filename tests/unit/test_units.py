"""Units become a factor and an offset at start, or a line of configuration that somebody must mend."""

from __future__ import annotations

import subprocess
import sys

import pint
import pytest

from edge_agent.sensing.units import COMMON, SAME, conversion
from edge_agent.sensing.values import checked_number


@pytest.mark.parametrize(
    ("source", "unit", "given", "expected"),
    [
        ("degF", "degC", 95.0, 35.0),
        ("K", "degC", 300.0, 26.85),
        ("psi", "bar", 14.503773773, 1.0),
        ("l/min", "m^3/h", 100.0, 6.0),
        ("%", "", 50.0, 0.5),
        ("degF/min", "K/min", 9.0, 5.0),
        ("mbar", "Pa", 1e9, 1e11),
        ("N·m", "kN*m", 5.0, 0.005),
    ],
)
def test_source_unit_becomes_the_twins(source: str, unit: str, given: float, expected: float) -> None:
    line = conversion(source, unit)
    assert given * line.factor + line.offset == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("source", "unit", "says"),
    [
        ("degC", "bar", "converts to bar"),
        ("Wat", "W", "Pint knows"),
        ("W", "Wat", "Pint knows"),
        ("m(", "m", "Pint knows"),
        ("Wat", "Wat", "Pint knows"),
        ("dBm", "W", "straight line"),
    ],
)
def test_what_cannot_be_converted_says_why(source: str, unit: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        conversion(source, unit)


@pytest.mark.parametrize("unit", sorted(COMMON))
def test_common_unit_is_one_that_pint_knows(unit: str) -> None:
    pint.get_application_registry().Unit(unit)


def test_common_units_do_not_load_pint() -> None:
    program = (
        "import sys; from edge_agent.sensing.units import conversion; conversion('bar', 'bar'); 'pint' in sys.modules"
        " and sys.exit('loaded')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_unit_that_stays_is_not_calculated_with() -> None:
    assert conversion("m^2", "m^2") is SAME


def test_a_converted_value_carries_no_noise_of_the_calculation() -> None:
    assert checked_number(158, -20, 150, conversion("degF", "degC")) == (70.0, None)
    assert checked_number(0.1 + 0.2, 0, 1) == (0.1 + 0.2, None)  # what is not converted is not touched
