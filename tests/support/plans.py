"""A fleet's plan that several tests found, as a value and as the file it comes from."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gemel.console.founding import AgentPlan, FleetPlan, GatePlan
from gemel.wire.messages import WHOLE, Policy, SealingPolicy, TrainingPlan
from gemel.wire.types import Address
from tests.support.chains import CHAIN_ID

POLICY = Policy(
    sealing=SealingPolicy("bfv-packed", bits=8, clip=0.1, contributors=4, weight_cap=1000),
    training=TrainingPlan(epochs=1, batch_size=32, learning_rate=0.01),
    minimum_owners=3,
    max_frame_bytes=1_000_000,
)
OWNERS = ("bonn", "lyon", "turin", "graz")

EXAMPLE_TOML = f"""
fleet = "hydraulics"
task = "condition"
rpc_url = "http://127.0.0.1:8545"
chain_id = {CHAIN_ID}
validators = 3

[gate]
threshold = 300000
max_regression = 20000

[policy]
minimum_owners = 3
max_frame_bytes = 1000000

[policy.sealing]
scheme = "bfv-packed"
bits = 8
clip = 0.1
contributors = 4
weight_cap = 1000

[policy.training]
epochs = 1
batch_size = 32
learning_rate = 0.01
""" + "".join(f'\n[[agents]]\nname = "gateway-{n}"\nowner = "{owner}"\n' for n, owner in enumerate(OWNERS, 1))


def policy_of(*, levels: int = 1, max_share: int = WHOLE, trust: dict[Address, int] | None = None) -> Policy:
    """The same policy with other weights."""
    sealing = replace(POLICY.sealing, levels=levels, max_share=max_share)
    return replace(POLICY, sealing=sealing, trust=trust or {})


def plan_of(**changes: Any) -> FleetPlan:
    """Four agents of four owners, three validators, two of which decide."""
    values: dict[str, Any] = {
        "fleet": "hydraulics",
        "task": "condition",
        "rpc_url": "http://127.0.0.1:1",
        "chain_id": CHAIN_ID,
        "validators": 3,
        "gate": GatePlan(threshold=300_000, max_regression=20_000),
        "policy": POLICY,
        "agents": tuple(AgentPlan(f"gateway-{n}", owner) for n, owner in enumerate(OWNERS, 1)),
    }
    return FleetPlan(**values | changes)
