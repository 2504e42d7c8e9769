"""What the demo plant is: who takes part, how rounds are run, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from gemel.console.founding import DEFAULT_BITS, AgentPlan, FleetPlan, GatePlan
from gemel.errors import ConfigError
from gemel.learning.tasks.hydraulic import PLAN
from gemel.wire.messages import Policy, SealingPolicy

FLEET, TASK, SITE, CHAIN_ID = "hydraulics", "hydraulic-condition", "works", 31337
TASK_PATH = "gemel.learning.tasks.hydraulic:task"
SABOTAGE_PATH = "gemel.demo.sabotage:task"
VALIDATORS = 3
POISONED_ROUND = 3  # in this round one gateway sends a poisoned update, and the contract refuses the candidate
LIVE_CYCLES = 30  # of each gateway come live, the earlier ones from the historian
MINIMUM_AGENTS = 3  # of two, each could subtract its own update from the sum

POLICY = Policy(
    sealing=SealingPolicy(scheme="bfv-packed", bits=DEFAULT_BITS, clip=0.15, contributors=8, weight_cap=500),
    training=PLAN,
    minimum_owners=MINIMUM_AGENTS,
    max_frame_bytes=4 << 20,
)
# Seen with a clip of 0.25: an honest round cost the validators' median up to 0.065, the heaviest gateway's poison
# 0.11 or more. With this clip two runs showed 0.03 and 0.18.
GATE = GatePlan(threshold=300_000, max_regression=80_000)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """One run of the demo. Raises ConfigError for numbers with which no round could be held."""

    agents: int = 4
    rounds: int = 4
    seed: int = 1
    live_only: bool = False
    broker: str | None = None  # an existing one; default: our own
    rpc: str | None = None
    funder: Path | None = None  # a key file, for an existing chain where gas costs
    one_time_keys: bool = False  # with three custodians; else one holds the round's key

    def __post_init__(self) -> None:
        if not MINIMUM_AGENTS <= self.agents <= POLICY.sealing.contributors:
            limits = f"{MINIMUM_AGENTS} to {POLICY.sealing.contributors}"
            raise ConfigError("gemel demo", "--agents", f"{limits}, not {self.agents}")
        if not 1 <= self.rounds <= 1000:
            raise ConfigError("gemel demo", "--rounds", f"1 to 1000, not {self.rounds}")
        if self.funder is not None and self.rpc is None:
            raise ConfigError("gemel demo", "--funder", "only with --rpc: on a chain of our own everybody has funds")

    @property
    def poisoned_round(self) -> int | None:
        """The round in which the last gateway poisons; none in a demo too short to show a refusal and go on."""
        return POISONED_ROUND if self.rounds > POISONED_ROUND else None

    @property
    def agent_names(self) -> tuple[str, ...]:
        """gateway-1, gateway-2, ..."""
        return tuple(f"gateway-{number}" for number in range(1, self.agents + 1))

    @property
    def policy(self) -> Policy:
        """What the demo's rounds are held to."""
        if not self.one_time_keys:
            return POLICY
        return replace(POLICY, sealing=replace(POLICY.sealing, scheme="one-time-keys"))

    def fleet(self, rpc_url: str, chain_id: int) -> FleetPlan:
        """The fleet to found: every gateway belongs to an owner of its own."""
        return FleetPlan(
            fleet=FLEET,
            task=TASK,
            rpc_url=rpc_url,
            chain_id=chain_id,
            validators=VALIDATORS,
            gate=GATE,
            policy=self.policy,
            agents=tuple(
                AgentPlan(name, f"owner of {name}", assets=(f"{SITE}/{rig_of(name)}",)) for name in self.agent_names
            ),
            custodians=3 if self.one_time_keys else 1,
        )


def rig_of(agent: str) -> str:
    """The machine behind a gateway: gateway-1 has rig-1."""
    return agent.replace("gateway", "rig")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one plant lies."""

    root: Path

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.root / "logs"

    @property
    def configuration(self) -> Path:
        """One TOML file a service."""
        return self.root / "etc"

    @property
    def data(self) -> Path:
        """Reference sets, history and the replay's plan: what the demo deals out at its start."""
        return self.root / "data"

    def state(self, service: str) -> Path:
        """A service's own state; agents lie under `agents/`."""
        return self.root / "agents" / service if service.startswith("gateway-") else self.root / service
