"""Which classes stand behind the ports, by the policy's scheme. For whoever may hold a public context."""

from __future__ import annotations

from gemel.sealing.ckks.sealer import CkksSealer
from gemel.sealing.ckks.summer import CkksSummer
from gemel.sealing.onetime.sealer import OneTimeSealer
from gemel.sealing.onetime.summer import OneTimeSummer
from gemel.sealing.ports import SealerPort, SummerPort
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import Address


def sealer_of(context: bytes, policy: SealingPolicy, parameters: int, agent: Address) -> SealerPort:
    """An agent's side; `agent` is its address, which one-time keys bind. Raises as the scheme's sealer."""
    if policy.scheme == "one-time-keys":
        return OneTimeSealer(context, policy, parameters, agent)
    if policy.scheme == "ckks":
        return CkksSealer(context, policy, parameters)
    return Sealer(context, policy, parameters)


def summer_of(context: bytes, policy: SealingPolicy, parameters: int) -> SummerPort:
    """The coordinator's and the validators' side. Raises as the scheme's summer."""
    if policy.scheme == "one-time-keys":
        return OneTimeSummer(context, policy, parameters)
    if policy.scheme == "ckks":
        return CkksSummer(context, policy, parameters)
    return Summer(context, policy, parameters)
