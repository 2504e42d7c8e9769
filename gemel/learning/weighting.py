"""What each update counts in a sum, as a small integer by which its ciphertext is multiplied. Pure.

The paper's aggregation (Ababio and Bieniek 2025, section 3.4), on updates u_k and with integers for its weights:

    M' = M + Σ w_k · u_k / Σ w_k        w_k = l_k · n_k
    l_k = round(L · r_k · W_k)          L: the policy's levels; r_k: trust and W_k: explanation, each in 0..1

Every agent applies its n_k itself, before it seals. What an agent would rather skip, r_k and W_k, is in the level.
Where the paper adds (α · n_k / n + β · q_k + γ · r_k), this multiplies: samples that a device claims to have must not
make up for trust that it lacks. At L = 1 an update is in (r_k · W_k of a half or more) or out.

No w_k may be above the policy's share of their sum. So there is a ceiling for all, the highest one that holds:
l_k = min(round(L · r_k · W_k), ceiling / n_k rounded down). Who does not fit under it once is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gemel.wire.messages import WHOLE
from gemel.wire.types import Address, Count, Ppm


class Contributor(NamedTuple):
    """One update as it is weighed: what the device claims, and what others hold of it."""

    device: Address
    samples: Count  # n_k
    trust: Ppm  # r_k
    explanation: Ppm  # W_k


def weigh(contributors: Sequence[Contributor], *, levels: int, max_share: Ppm) -> dict[Address, int]:
    """The level, 1 to `levels`, of each update that counts at all; nobody's where the share cannot be kept.

    Integers only, so everybody computes the same, whatever the order. Those who count get the same levels again if
    they alone are weighed: a sum can be checked without knowing who was left out of it.
    """
    wanted = {c.device: (2 * levels * c.trust * c.explanation + WHOLE**2) // (2 * WHOLE**2) for c in contributors}
    ceiling = _ceiling(contributors, wanted, max_share)
    given = {c.device: min(wanted[c.device], ceiling // c.samples) for c in contributors}
    return {device: level for device, level in given.items() if level > 0}


def _ceiling(contributors: Sequence[Contributor], wanted: dict[Address, int], max_share: Ppm) -> int:
    """The highest l · n_k that is within the share of what all weigh together under it; 0 where there is none."""
    steps = sorted((level * c.samples, c.samples) for c in contributors for level in range(1, wanted[c.device] + 1))
    ceiling = total = 0
    for index, (weight, samples) in enumerate(steps):  # under a ceiling lie exactly the steps up to it
        total += samples
        last_of_its_weight = index + 1 == len(steps) or steps[index + 1][0] > weight
        if last_of_its_weight and weight * WHOLE <= max_share * total:
            ceiling = weight
    return ceiling
