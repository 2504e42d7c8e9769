"""The demo as a user runs it: what it leaves behind is a report and a kept plant, and never a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
MARK = "DEMO_UNDER_TEST"  # in the environment of every process of one run, whoever started it
WHOLE_RUN_S, START_S, END_S = 240, 120, 30
INTERRUPTED, FAILED = 130, 1


class Demo:
    """One `gemel demo` in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.state, self.report = folder / "state", folder / "report"
        self._output, self._mark = folder / "output.txt", uuid4().hex
        command = [sys.executable, "-m", "gemel", "demo", "--agents", "3", "--rounds", "1", *arguments]
        command += ["--keep", str(self.state), "--report", str(self.report)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, MARK: self._mark, "COLUMNS": "200"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = START_S) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the demo did not come to {what}:\n{self.output}")
            time.sleep(0.05)

    def wait_until_said(self, text: str) -> None:
        self.wait_until(lambda: text in self.output, f"say {text!r}")

    def processes(self) -> list[psutil.Process]:
        """Everything alive that carries this run's mark, orphans too."""
        return [process for process in psutil.process_iter() if _environment(process).get(MARK) == self._mark]

    def processes_of(self, module: str) -> list[psutil.Process]:
        return [process for process in self.processes() if module in process.cmdline()]

    def left_behind(self) -> list[str]:
        """What still runs; given a moment, for a process that is being killed is not gone at once."""
        _, alive = psutil.wait_procs(self.processes(), timeout=END_S)
        return [" ".join(process.cmdline()) for process in alive]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:  # gone meanwhile, or another user's
        return {}


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Demo]:
    demo = Demo(folder, *arguments)
    try:
        yield demo
    finally:
        for process in demo.processes():  # only where a test has failed
            process.kill()
        demo.process.wait(END_S)


def audit(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gemel", "audit", "verify", str(directory)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S, check=False)


def test_whole_run_deploys_reports_and_leaves_a_plant_that_audits(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        assert demo.wait(WHOLE_RUN_S) == 0, demo.output
        assert demo.left_behind() == []

    assert re.search(r"M0 +deployed: 3 agents run it", demo.output), demo.output
    assert re.search(r"round 1 +deployed: 3 agents run it", demo.output), demo.output
    assert "all 3 twins carry diagnoses by deployment 2" in demo.output

    report = json.loads((demo.report / "report.json").read_text())
    assert [round_["outcome"] for round_ in report["rounds"]] == ["deployed", "deployed"]
    page = (demo.report / "report.html").read_text()
    assert "<html" in page
    assert not re.search(r"""(src|href)=["']https?://""", page), "the page must be whole without a network"

    frames = list((demo.state / "coordinator" / "rounds" / "000001" / "frames").iterdir())
    assert len(frames) == 3
    assert not [path for path in demo.state.rglob("*") if path.is_file() and b"GKEY" in path.read_bytes()]

    verified = audit(demo.state)
    assert verified.returncode == 0, verified.stdout + verified.stderr

    flipped = frames[0]
    frame = bytearray(flipped.read_bytes())
    frame[len(frame) // 2] ^= 1
    flipped.write_bytes(frame)
    assert audit(demo.state).returncode == 1


def test_ctrl_c_while_the_plant_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as demo:
        demo.wait_until_said("gateways import what their historians have")
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait(END_S) == INTERRUPTED, demo.output
        assert demo.left_behind() == []
    assert "Traceback" not in demo.output


def test_killed_service_ends_the_demo_with_its_name_and_a_killed_demo_takes_all_along(tmp_path: Path) -> None:
    """Two ways to die in one start of the plant would need two plants; the second is killed as early as it counts."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with running(first) as demo:
        sealing_key = demo.state / "custodian" / "keys" / "round-000001.key"
        demo.wait_until(sealing_key.exists, "make the first round's sealing key")
        demo.processes_of("custodian")[0].kill()
        assert demo.wait(END_S) == FAILED, demo.output
        assert demo.left_behind() == []
        assert not sealing_key.exists(), "a kept directory may hold the frames that it opens"
    assert "custodian ended by itself" in demo.output

    with running(second) as demo:
        demo.wait_until(lambda: bool(demo.processes_of("edge_agent")), "import histories")
        demo.process.kill()
        demo.wait(END_S)
        assert demo.left_behind() == []
