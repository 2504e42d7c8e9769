"""The scalar types that every message is made of.

Digests are SHA-256 in lower-case hex without a prefix (64 characters); addresses are Ethereum addresses in
lower-case hex with `0x` (42 characters). Both are text everywhere in Python, in JSON, in topics and in file
names, and become bytes only inside fixed-length headers and at the chain's edge.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{40}\Z")]
BoxKey = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{130}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]

NO_DIGEST: Digest = "0" * 64
NO_ADDRESS: Address = "0x" + "0" * 40


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """Digest of `data`, as it stands in headers, file names and on chain."""
    return hashlib.sha256(data).hexdigest()


def ppm(share: float) -> Ppm:
    """A share in 0..1 as parts per million, the unit in which accuracies are signed and compared on chain."""
    if not 0.0 <= share <= 1.0:  # also refuses NaN
        raise ValueError(f"a share lies in 0..1, got {share}")
    return round(share * 1_000_000)
