"""What a coordinator's summer needs: `python -m benchmarks.memory FOLDER SCHEME BITS CONTRIBUTORS` prints one peak.

Part of `python -m benchmarks.sealing`, which starts one such process for 10 contributors and one for 1000.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.schemes import CAP, CLIP, round_context, update_of
from gemel.errors import ConfigError
from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.opener import Opener
from gemel.sealing.ports import SummerPort
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire.messages import SealingPolicy
from gemel.wire.types import NO_ADDRESS

PARAMETERS = 500_000
FEW, MANY = 10, 1000


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder with one sealed body and the context it was sealed for."""

    folder: Path
    scheme: str
    bits: int

    @property
    def policy(self) -> SealingPolicy:
        """The largest round there can be, whoever takes part."""
        return SealingPolicy(self.scheme, self.bits, CLIP, MANY, CAP)  # type: ignore[arg-type]  # of our own making

    def summer(self) -> SummerPort:
        """A fresh summer for this round."""
        return summer_of((self.folder / "context").read_bytes(), self.policy, PARAMETERS)

    def fill(self) -> None:
        """Seal the one body."""
        if self.scheme == "one-time-keys":
            context = round_context(PARAMETERS, [bytes([1]) * 32]).pack()
        else:
            opener: type[Opener | CkksOpener] = CkksOpener if self.scheme == "ckks" else Opener
            context = opener.create(self.policy, PARAMETERS).public_context()
        (self.folder / "context").write_bytes(context)
        zeros = np.zeros(PARAMETERS, np.float32)
        sealer = sealer_of(context, self.policy, PARAMETERS, NO_ADDRESS)
        (self.folder / "body").write_bytes(sealer.seal(update_of(0, PARAMETERS), CAP, zeros).body)


def peak_after(spool: Spool, contributors: int) -> int:
    """Peak memory, in bytes, of this process after a summer has read and added so many bodies."""
    summer = spool.summer()
    for _ in range(contributors):
        summer.add((spool.folder / "body").read_bytes())
    summer.sum()
    status = Path("/proc/self/status").read_text()  # getrusage's peak would begin with the parent's
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def memory_row(scheme: str, bits: int) -> dict[str, Any]:
    """Peak memory of a coordinator's summer, 10 contributors against 1000, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        try:
            Spool(Path(name), scheme, bits).fill()
        except ConfigError as error:
            return {"scheme": scheme, "bits": bits, "parameters": PARAMETERS, "refused": str(error)}
        command = [sys.executable, "-m", "benchmarks.memory", name, scheme, str(bits)]
        few, many = (
            int(subprocess.run([*command, str(count)], check=True, capture_output=True, text=True).stdout)
            for count in (FEW, MANY)
        )
    return {
        "scheme": scheme,
        "bits": bits,
        "parameters": PARAMETERS,
        "peak_mb_10": round(few / 2**20, 1),
        "peak_mb_1000": round(many / 2**20, 1),
        "difference_mb": round((many - few) / 2**20, 1),
    }


if __name__ == "__main__":
    folder, scheme_name, bits_text, contributors_text = sys.argv[1:]
    print(peak_after(Spool(Path(folder), scheme_name, int(bits_text)), int(contributors_text)))
