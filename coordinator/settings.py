"""What the coordinator is told at start (TOML; gemel/host/settings.py says how it is read).

state_dir = "/var/lib/gemel/coordinator"
trust_file = "/etc/gemel/trust.json"
policy_file = "/etc/gemel/policy.json"
key_file = "/etc/gemel/coordinator/key.json"
task = "gemel.learning.tasks.hydraulic:task"
reference_file = "/etc/gemel/coordinator/reference.npz"

[bus]
url = "mqtts://broker:8883"

[chain]
file = "/etc/gemel/chain.json"

[rounds]
pause_s = 600
on_request = true       # after the first rounds: when agents say that their machines have drifted
unasked_rounds = 20
request_agents = 3
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gemel.host.chain_party import ChainPartySettings
from gemel.host.settings import Section

Duration = Annotated[int, Field(ge=1, le=86_400)]


class RoundSection(Section):
    """[rounds]: how rounds are run."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    rounds: Annotated[int, Field(ge=1)] | None = None  # default: without end
    pause_s: Annotated[int, Field(ge=0, le=86_400)] = 600  # between two rounds
    context_s: Duration = 60  # for the custodian to make a key
    commit_s: Duration = 300  # for agents to train and commit; shorter once all have
    reveal_s: Duration = 120  # for frames to come in
    decide_s: Duration = 600  # for confirmation, opening, votes and verdict
    on_request: bool = False  # rounds begin when agents ask for them, and no sooner after the last than pause_s
    unasked_rounds: Annotated[int, Field(ge=0)] = 0  # with on_request: so many first, by pause_s alone
    request_agents: Annotated[int, Field(ge=1, le=1000)] = 1  # so many different ones must have asked
    request_every_s: Annotated[int, Field(ge=0, le=86_400)] = 60  # one agent, at most
    request_valid_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 86_400  # after it a request no longer counts
    keep_frames: bool = False  # for `gemel audit`: ciphertexts stay after the round


class CoordinatorSettings(ChainPartySettings):
    """The file's keys."""

    task: str
    reference_file: Path
    statistics_file: Path | None = None  # approved statistics (`gemel statistics`), which M0 is to be normalised by
    rounds: RoundSection = RoundSection()
