"""Virtual environments for clients that cannot live beside ours, kept under .tools/, which git ignores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
INSTALL_S = 120


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of .tools/`name`. Skips the test where pip reaches no index, and fails it under CI=true."""
    folder = REPOSITORY / ".tools" / name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists() and done.read_text() == "\n".join(requirements):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    install = [python, "-m", "pip", "install", "--quiet", "--retries", "1", *requirements]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = f"pip cannot install {' '.join(requirements)}: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    done.write_text("\n".join(requirements))
    return python
