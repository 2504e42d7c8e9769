"""The hydraulic rig's recorded cycles, read from the file that ships with the demo (see data/hydraulic/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import INPUTS, labels_of

_FILE = Path(__file__).parent / "data" / "hydraulic" / "hydraulic_1hz.npz"


def read_cycles() -> Windows:
    """All 2,205 cycles in the order they were recorded: inputs (2205, 60, 8), labels (2205, 4), all known."""
    with np.load(_FILE, allow_pickle=False) as arrays:
        inputs = np.stack([arrays[column.name] for column in INPUTS], axis=2)
        return Windows(inputs.astype(np.float32), labels_of(arrays["profile"]))
