"""docs/keys.md says what is kept for how long: every file that a real round leaves behind has a line there."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from tests.support.chains import REPOSITORY
from tests.support.witnessed_round import AGENTS, WitnessedRound

KINDS = dict.fromkeys(AGENTS, "agent") | {"validator-1": "validator", "validator-2": "validator"}
OF_THE_TEST = re.compile(
    r"[^/]+\.(toml|npz)|played-.*"
)  # settings and reference sets lie where their owner puts them


def documented() -> list[str]:
    """The patterns in the first column of the table."""
    page = (REPOSITORY / "docs" / "keys.md").read_text()
    table = page.partition("## What is kept for how long")[2]
    return [pattern for row in re.findall(r"^\| (`.*?) \|", table, re.M) for pattern in re.findall(r"`(.+?)`", row)]


def test_every_file_of_a_kept_round_is_in_the_table_of_what_is_kept(witnessed_round: WitnessedRound) -> None:
    patterns, seen, unknown = documented(), set(), []
    for path in sorted(witnessed_round.folder.rglob("*")):
        first, *rest = path.relative_to(witnessed_round.folder).parts
        name = "/".join((KINDS.get(first, first), *rest))
        if path.is_file() and not OF_THE_TEST.fullmatch(name):
            matching = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
            seen.update(matching)
            unknown += [] if matching else [name]
    assert unknown == []
    assert {"keys/*.json", "coordinator/rounds/*/frames/*", "agent/residual-*.npy"} <= seen


def test_no_key_file_of_a_kept_round_can_be_read_by_others(witnessed_round: WitnessedRound) -> None:
    keys = list((witnessed_round.folder / "keys").iterdir())
    assert len(keys) == len(witnessed_round.addresses)
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    for service in ("custodian", "coordinator", *AGENTS):
        assert (witnessed_round.folder / service).stat().st_mode & 0o077 == 0
