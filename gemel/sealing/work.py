"""What services hand to their worker processes: plain functions whose arguments and results pickle well.

Each builds what it needs from bytes (a few milliseconds) and keeps nothing; policy.scheme says of which class. Those
that need a secret key, the custodian's, are in opener.py.
A frame is a signed update header and the sealed body behind it, as it travels and as it is spooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gemel.sealing import frames
from gemel.sealing.bfv import parse_context, require_public
from gemel.sealing.budget import budget_of
from gemel.sealing.ckks import frames as ckks
from gemel.sealing.ckks import plan as ckks_plan
from gemel.sealing.onetime import frames as onetime
from gemel.sealing.onetime import plan as onetime_plan
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.ports import Sealed
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector
from gemel.wire.types import NO_ADDRESS, Address, Digest


def check_public_context(context: bytes, policy: SealingPolicy) -> None:
    """Raises ConfigError if there is a secret key in a context, PeerError (malformed) if it is none.

    Whether it is one for the policy, whoever seals or adds with it looks.
    """
    if policy.scheme == "one-time-keys":
        RoundContext.parse(context)
    else:
        require_public(parse_context(context))


def seal_update(
    context: bytes,
    policy: SealingPolicy,
    vector: Vector,
    weight: int,
    residual: Vector,
    agent: Address = NO_ADDRESS,
) -> Sealed:
    """Seal one update with the round's public context; see SealerPort.seal. One-time keys are bound to `agent`."""
    return sealer_of(context, policy, vector.size, agent).seal(vector, weight, residual)


def check_body(frame: bytes, policy: SealingPolicy, parameters: int, context: Digest) -> None:
    """Raises Refused unless the sealed body in `frame` is whole and of this round; see frames.check_body.

    The frame's header is for the caller to check.
    """
    body = frame[HEADER_BYTES:]
    if policy.scheme == "one-time-keys":
        onetime.check_body(body, onetime_plan.plan_of(policy, parameters), context, frames.BodyKind.UPDATE)
    elif policy.scheme == "ckks":
        plan = ckks_plan.plan_of(policy, parameters)
        ckks.check_body(body, plan, ckks.head_of(plan, context, frames.BodyKind.UPDATE))
    else:
        frames.check_body(body, frames.BodyShape(budget_of(policy, parameters), context))


def sum_frames(context: bytes, policy: SealingPolicy, parameters: int, spooled: Sequence[tuple[Path, int]]) -> bytes:
    """The sealed sum of the bodies in these files, each frame at its level, read one at a time; see SummerPort.

    Raises Refused for the first body that does not hold, OSError for a file that cannot be read.
    """
    summer = summer_of(context, policy, parameters)
    for path, level in spooled:
        summer.add(path.read_bytes()[HEADER_BYTES:], level)
    return summer.sum()


def open_with_totals(
    context: bytes, policy: SealingPolicy, totals: Sequence[bytes], sum_body: bytes, contributors: int
) -> bytes:
    """One-time keys: open a sum with what enough custodians gave out; see OneTimeOpener, whose refusals it raises."""
    return OneTimeOpener.from_totals(context, policy, totals).open(sum_body, contributors)
