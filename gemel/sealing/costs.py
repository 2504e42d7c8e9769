"""What a policy costs and what it rests on, for people: shown before a fleet is founded, kept with every round."""

from __future__ import annotations

import math

from gemel.errors import ConfigError
from gemel.sealing import budget
from gemel.sealing.ckks import plan as ckks
from gemel.sealing.encrypted_training.plan import check_policy, head_plan
from gemel.sealing.onetime import plan as onetime
from gemel.wire.messages import MOST_LEVELS, WHOLE, Policy, SealingPolicy

Figures = budget.Budget | ckks.Plan | onetime.Plan


def figures_of(policy: SealingPolicy, parameters: int) -> Figures:
    """The scheme's own figures of a policy at one model size. Never raises: call `check()` before using it."""
    if policy.scheme == "one-time-keys":
        return onetime.plan_of(policy, parameters)
    if policy.scheme == "ckks":
        return ckks.plan_of(policy, parameters)
    return budget.budget_of(policy, parameters)


def check_custodians(policy: SealingPolicy, custodians: int) -> None:
    """Raises ConfigError where so many custodians cannot open the scheme's sums."""
    if custodians != 1 and policy.scheme != "one-time-keys":
        raise ConfigError(
            "plan", "custodians", f"1: the key of {policy.scheme} is one custodian's; {custodians} need one-time-keys"
        )


def describe(policy: Policy, parameters: int, features: int | None = None) -> str:
    """The budget as a table, and in a line each what weights cost, how ciphertexts are weighed, what was excepted.

    `features` of a linear head, the constant included: what training on encrypted data costs depends on them.
    Raises ConfigError for a policy over budget.
    """
    figures = figures_of(policy.sealing, parameters)
    figures.check(policy.max_frame_bytes)
    lines = [figures.TABLE_HEAD, figures.table_line(), "", *_weights(policy)]
    if policy.training.encrypted:
        lines.append(_training(policy, parameters, features))
    if policy.exception:
        lines.append(policy.exception)
    return "\n".join(lines) + "\n"


def _training(policy: Policy, parameters: int, features: int | None) -> str:
    if features is None:
        raise ConfigError("budget", "features", "how many the linear head has, with training.encrypted")
    plan = head_plan(policy.training, parameters, features, policy.sealing.weight_cap)
    check_policy(policy, plan)
    return plan.table_line()


def _weights(policy: Policy) -> list[str]:
    sealing = policy.sealing
    return [
        f"n_k, applied by agents: up to {sealing.weight_cap}; the scaling takes "
        f"{math.log2(sealing.weight_cap):.1f} bits of resolution at n_k = 1, and 1.0 at half the cap",
        f"trust and explanation, applied to ciphertexts: {sealing.levels} of at most {MOST_LEVELS} levels; "
        f"one device is at most {100 * sealing.max_share / WHOLE:g} % of a sum",
    ]
