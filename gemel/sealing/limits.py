"""What every scheme's figures are held to, whatever they are. Pure."""

from __future__ import annotations

from typing import Final

from gemel.errors import ConfigError
from gemel.wire.messages import SealingPolicy

MAX_PARAMETERS: Final = 100_000_000


def check_scheme(policy: SealingPolicy, scheme: str) -> None:
    """Raises ConfigError for figures of a policy that asks for another scheme."""
    if policy.scheme != scheme:
        raise ConfigError("sealing policy", "scheme", f"{scheme}, got {policy.scheme}")


def check_parameters(parameters: int) -> None:
    """Raises ConfigError for a model that is empty, or larger than anybody seals."""
    if not 1 <= parameters <= MAX_PARAMETERS:
        raise ConfigError("model", "parameters", f"1..{MAX_PARAMETERS}, got {parameters}")


def check_frame_bytes(body_bytes: int, max_frame_bytes: int | None) -> None:
    """Raises ConfigError for a body that the policy's frames cannot hold. None: nobody asks."""
    if max_frame_bytes is not None and body_bytes > max_frame_bytes:
        raise ConfigError("policy", "max_frame_bytes", f"at least {body_bytes} for this model, got {max_frame_bytes}")
