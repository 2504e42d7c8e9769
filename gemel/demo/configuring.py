"""Writes one TOML file for every service of the plant: the same files that an engineer writes by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from gemel.adapters.chain_place import ChainPlace
from gemel.console.fleet_files import CHAIN_FILE, KEYS_FOLDER, POLICY_FILE, TRUST_FILE
from gemel.demo.plan import SABOTAGE_PATH, SITE, TASK_PATH, VALIDATORS, DemoPlan, Layout, rig_of
from gemel.demo.replay import inspection_topic, sensors_topic
from gemel.learning.tasks.hydraulic import task

ROUNDS = {"pause_s": 1, "context_s": 60, "commit_s": 90, "reveal_s": 60, "decide_s": 120, "keep_frames": True}
LISTENER_PATIENCE_S = 60.0
# No canaries: every rig sees other conditions, and what is better for all may be worse for one, which would go back.
CANARY_SHARE = 1.0
MARGIN = 4  # a worn rig leaves the usual range by up to three times its width


def configure(
    plan: DemoPlan, layout: Layout, broker_url: str, place: ChainPlace, poisoner: str | None
) -> dict[str, Path]:
    """Service name → its configuration file."""
    layout.configuration.mkdir(parents=True, exist_ok=True)
    bus = {"url": broker_url}
    chain = {"file": str(layout.root / CHAIN_FILE)}

    def party(party_name: str, /, **more: Any) -> dict[str, Any]:
        return {
            "state_dir": str(layout.state(party_name)),
            "trust_file": str(layout.root / TRUST_FILE),
            "key_file": str(layout.root / KEYS_FOLDER / f"{party_name}.json"),
            **more,
            "bus": bus,
        }

    def on_chain(party_name: str, /, **more: Any) -> dict[str, Any]:
        return party(party_name, policy_file=str(layout.root / POLICY_FILE), **more) | {"chain": chain}

    def reference(name: str) -> str:
        return str(layout.data / f"reference-{name}.npz")

    files: dict[str, dict[str, Any]] = {
        "twin-registry": {"state_dir": str(layout.state("twin-registry")), "bus": bus},
        "listener": on_chain("listener", patience_s=LISTENER_PATIENCE_S, canary_share=CANARY_SHARE),
        "coordinator": on_chain("coordinator", task=TASK_PATH, reference_file=reference("coordinator"))
        | {"rounds": ROUNDS | {"seed": plan.seed, "rounds": plan.rounds}},
    }
    for name in plan.fleet(place.rpc_url, place.chain_id).custodian_names:
        files[name] = on_chain(name, task=TASK_PATH)
    for number in range(1, VALIDATORS + 1):
        name = f"validator-{number}"
        files[name] = on_chain(name, task=TASK_PATH, reference_file=reference(name))
    for name in plan.agent_names:
        sensors = layout.configuration / f"sensors-{name}.toml"
        sensors.write_text(tomli_w.dumps(_sensors(rig_of(name))))
        files[name] = party(
            name,
            site=SITE,
            name=name,
            asset=rig_of(name),
            sensors_file=str(sensors),
            task=SABOTAGE_PATH if name == poisoner else TASK_PATH,
        )
    paths = {}
    for name, document in files.items():
        paths[name] = layout.configuration / f"{name}.toml"
        paths[name].write_text(tomli_w.dumps(document))
    return paths


def _sensors(rig: str) -> dict[str, Any]:
    """The mapping from topics to properties; a reading far outside a sensor's usual range is out of range."""
    properties = {
        column.name: {
            "unit": column.unit,
            "minimum": column.low - MARGIN * (column.high - column.low),
            "maximum": column.high + MARGIN * (column.high - column.low),
        }
        for column in task.inputs
    }
    return {
        "source": [{"topic": sensors_topic(rig), "time": "time", "properties": properties}],
        "inspection": {"topic": inspection_topic(rig), "time": "time"},
    }
