"""constraints.txt pins every dependency that pyproject.toml names, within its range."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
REQUIREMENTS = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS)]
LINES = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = PINS.get(canonicalize_name(requirement.name))
    assert version is not None, f"add {requirement.name} to constraints.txt"
    assert requirement.specifier.contains(version, prereleases=True)


def test_every_line_is_an_exact_public_version() -> None:
    for line in LINES:
        name, separator, version = line.partition("==")
        assert name, line
        assert separator, line
        assert "+" not in version, f"{line}: a local build that no registry has"
