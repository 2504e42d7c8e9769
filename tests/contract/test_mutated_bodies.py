"""Ten thousand mutations of every form of the sealing room, each kind in a process of its own.

What is signed (frames, letters) must be refused every time. A bare body whose words were changed is another
ciphertext and may pass for one, but there is one way of writing it down: what a receiver understood, written again,
is what came.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mutations import KINDS, SIGNED

COUNT = 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_no_mutation_is_taken_for_the_original_or_ends_the_process(kind):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mutations", kind, str(COUNT), "17"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, others = map(int, done.stdout.split())
    assert refused + others == COUNT
    assert refused > COUNT / 4
    if kind in SIGNED:
        assert others == 0
