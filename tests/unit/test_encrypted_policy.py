"""Policies that say `training.encrypted`: what they cost is told, and what does not fit is refused beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from gemel.console import founding
from gemel.errors import ConfigError
from gemel.host.party import read_policy
from gemel.sealing import costs
from gemel.wire.messages import Policy, SealingPolicy, TrainingPlan, encode
from tests.support.fleet import fleet_plan
from tests.support.tiny_task import linear, task

SEALING = SealingPolicy("bfv-packed", 16, 2.2, 4, weight_cap=100)
POLICY = Policy(SEALING, TrainingPlan(2, 1, 1.0, encrypted=True), 3, 200_000)
SMALL_CLIP = replace(POLICY, sealing=replace(SEALING, clip=2.0))


def written(policy: Policy, folder: Path) -> Path:
    path = folder / "policy.json"
    path.write_bytes(encode(policy))
    return path


def test_a_linear_heads_policy_is_read_and_its_cost_described(tmp_path):
    assert read_policy(written(POLICY, tmp_path), linear) == POLICY
    described = costs.describe(POLICY, linear.manifest.size, linear.features)
    assert "encrypted training: 4 features, 5 outputs, 100 rows, 2 steps: 30 multiplications" in described
    assert "MB up" in described


def test_another_task_than_a_linear_head_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="only for a linear head"):
        read_policy(written(POLICY, tmp_path), task)


def test_clip_that_an_honest_update_could_exceed_is_refused_before_anybody_trains(tmp_path):
    plan = fleet_plan({name: name for name in "abc"}, "http://127.0.0.1", contributors=4)
    for refused in (
        lambda: read_policy(written(SMALL_CLIP, tmp_path), linear),
        lambda: costs.describe(SMALL_CLIP, linear.manifest.size, linear.features),
        lambda: founding.check_plan(replace(plan, policy=SMALL_CLIP), "plan"),
    ):
        with pytest.raises(ConfigError, match=r"sealing.clip.*at least 2.1 with training.encrypted"):
            refused()
    founding.check_plan(replace(plan, policy=POLICY), "plan")


def test_budget_needs_to_know_how_many_features_there_are():
    with pytest.raises(ConfigError, match="how many the linear head has"):
        costs.describe(POLICY, linear.manifest.size)
    with pytest.raises(ConfigError, match="a divisor of 20 parameters"):
        costs.describe(POLICY, linear.manifest.size, 3)
    assert "encrypted" not in costs.describe(
        replace(POLICY, training=replace(POLICY.training, encrypted=False)), linear.manifest.size
    )
