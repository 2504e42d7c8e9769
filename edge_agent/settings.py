"""What an edge agent is told at start (TOML; see gemel/host/settings.py).

state_dir = "/var/lib/gemel/edge-agent/press-1"
site = "north"
name = "gateway-1"                # in the topics of availability and status
asset = "press-1"                 # whose twin it keeps
sensors_file = "/etc/gemel/edge-agent/press-1/sensors.toml"   # see edge_agent/sensing/mapping.py
twin_file = "/etc/gemel/edge-agent/press-1/twin.toml" # actuators, alerts: edge_agent/twinning/twin_file.py
trust_file = "/etc/gemel/trust.json"    # with key_file: takes part in learning; without both: twins and infers only
key_file = "/etc/gemel/edge-agent/press-1/key.json"

[bus]
url = "mqtts://broker.plant:8883"

[sensors_bus]                     # optional: the gateway's own broker, for readings while the plant's is away
url = "mqtt://127.0.0.1:1883"

[evidence]                        # optional: chain endpoints to ask before a model is installed, and how often else
rpc_urls = ["https://rpc.one.example", "https://rpc.two.example"]

[drift]                           # optional: ask for rounds where a machine drifts; edge_agent/inferring/drift.py
cool_down_s = 3600

[maintenance]                     # optional, with key_file: which alerts open maintenance orders
severities = ["critical"]
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from edge_agent.inferring.drift import DriftPolicy
from gemel.errors import ConfigError
from gemel.host.settings import BusSection, Seconds, Section, ServiceSettings
from gemel.twin.state import Severity

Samples = Annotated[int, Field(ge=1, le=400)]
TopicLevel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]  # as gemel.wire.topics.name


class DriftSection(Section):
    """[drift]: what counts as drift, and when it is worth a round."""

    inputs: tuple[str, ...] | None = None  # default: all of the task's
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.002  # ADWIN's: how likely a false alarm may be
    grace_windows: Samples = 20  # of a stream before it can drift: after the start, and after each new model
    input_strength: Annotated[float, Field(gt=0, le=100)] = 2.0  # standard deviations
    error_strength: Annotated[float, Field(gt=0, le=1)] = 0.2  # of the share of wrong answers
    hold_windows: Samples = 10  # that a drift must have stood for before a round is asked for
    hold_examples: Annotated[int, Field(ge=0)] = 10  # labelled windows since then: there is something to learn
    cool_down_s: Seconds = 3600.0  # between two requests


class EvidenceSection(Section):
    """[evidence]: how an agent that learns knows what the chain says."""

    rpc_urls: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()  # JSON-RPC, each run by somebody else
    interval_s: Seconds = 60.0  # between two questions to them
    warning_s: Seconds = 300.0  # evidence older than that is remarked on


class MaintenanceSection(Section):
    """[maintenance]: which alerts of its twins open maintenance orders, for an agent that has a key."""

    severities: tuple[Severity, ...] = (Severity.CRITICAL,)


class AgentSettings(ServiceSettings):
    """The keys of the file."""

    site: TopicLevel
    name: TopicLevel
    asset: TopicLevel
    sensors_file: Path
    twin_file: Path | None = None
    task: str = "gemel.learning.tasks.hydraulic:task"
    health_watch_s: Seconds = 30.0  # as a canary: how long it looks at a new model (edge_agent/learning/health.py)
    max_assets: Annotated[int, Field(ge=1, le=1000)] = 1  # twins kept; above 1, of machines that topics name
    twin_rate_hz: Annotated[float, Field(gt=0, le=1000)] = 5.0  # the twin is published at most so often
    max_fill_s: Annotated[int, Field(ge=0, le=60)] = 3  # the longest gap in a window that is filled
    examples_capacity: Annotated[int, Field(ge=1, le=1_000_000)] = 5_000
    outbox_capacity: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000  # revisions kept while the broker is away
    sensors_bus: BusSection | None = None  # default: readings come over [bus]
    drift: DriftSection | None = None  # default: nobody watches
    maintenance: MaintenanceSection = MaintenanceSection()
    evidence: EvidenceSection = EvidenceSection()

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> Self:
        """As Settings.load; trust and key files come together or not at all."""
        settings = super().load(file, **overrides)
        if (settings.trust_file is None) != (settings.key_file is None):
            missing = "trust_file" if settings.trust_file is None else "key_file"
            raise ConfigError(str(file or "environment"), missing, "both trust_file and key_file, or neither")
        return settings

    @property
    def learns(self) -> bool:
        """Whether it takes part in rounds."""
        return self.trust_file is not None


def drift_policy(section: DriftSection, inputs: tuple[str, ...]) -> DriftPolicy:
    """The policy of a task with these inputs. Raises ConfigError for another input, and where river is missing."""
    watched = inputs if section.inputs is None else section.inputs
    for name in watched:
        if name not in inputs:
            raise ConfigError("settings", "drift.inputs", f"of {', '.join(inputs)}, not {name!r}")
    if find_spec("river") is None:
        raise ConfigError("settings", "drift", "needs river: pip install 'gemel[drift]'")
    return DriftPolicy(
        inputs=watched,
        delta=section.delta,
        grace_windows=section.grace_windows,
        input_strength=section.input_strength,
        error_strength=section.error_strength,
        hold_windows=section.hold_windows,
        hold_examples=section.hold_examples,
        cool_down_s=section.cool_down_s,
    )
