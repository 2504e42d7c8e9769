"""The units of deploy/systemd, verified offline by systemd-analyze (systemd itself need not run)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
SHARED = UNITS / "gemel-.service.d" / "10-shared.conf"
MOST_EXPOSURE = 20  # tenths; systemd-analyze exits 1 above it
STANDING_ALONE = "edge-agent@.service"


@pytest.fixture(scope="module")
def analyze() -> str:
    executable = shutil.which("systemd-analyze")
    if executable is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return executable


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are, but for /opt/gemel, which stands in a temporary folder and holds empty programs."""
    units = tmp_path / "units"
    shutil.copytree(UNITS, units)
    programs = tmp_path / "opt" / "bin"
    programs.mkdir(parents=True)
    for name in ("edge-agent", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for unit in units.glob("*.service"):
        text = unit.read_text()
        assert "/opt/gemel/bin/" in text
        unit.write_text(text.replace("/opt/gemel/", f"{programs.parent}/"))
    return units


def verify(analyze: str, unit: Path) -> str:
    """What systemd has to say against `unit`; it exits 0 on unknown keys, so only silence counts."""
    return subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False).stderr


def settings(path: Path) -> dict[str, list[str]]:
    """The lines below [Service], by key, in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_every_service_has_a_unit() -> None:
    services = {"edge-agent@", "gemel-coordinator", "gemel-custodian", "gemel-validator@"}
    services |= {"gemel-chain-listener", "gemel-twin-registry"}
    assert {name.removesuffix(".service") for name in NAMES} == services


@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_say_against_the_unit(analyze: str, installed: Path, name: str) -> None:
    assert verify(analyze, installed / name) == ""


def test_unknown_key_in_a_unit_would_be_found(analyze: str, installed: Path) -> None:
    unit = installed / STANDING_ALONE
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in verify(analyze, unit)


@pytest.mark.parametrize("name", NAMES)
def test_exposure_of_the_unit_is_at_most_two(analyze: str, installed: Path, name: str) -> None:
    command = [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", installed / name]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_edge_agent_is_as_hardened_as_the_plants_services() -> None:
    alone, shared = settings(UNITS / STANDING_ALONE), settings(SHARED)
    assert {key: alone.get(key) for key in shared} == shared


@pytest.mark.parametrize("name", NAMES)
def test_unit_bounds_memory_and_takes_keys_as_credentials(name: str) -> None:
    unit = settings(UNITS / name)
    assert "MemoryMax" in unit
    assert "LoadCredential" in unit
    assert ".key" not in "".join(unit["ExecStart"])
