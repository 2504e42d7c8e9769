"""docs/tutorial.md, line by line: its files are written, its commands run, and what it promises is what comes.

    ```toml or ```python    a file: the first line names it (`# agent.toml`); `# agent.toml, further down` adds to it
    ```console              lines after `$ ` are commands, all in one shell; the lines up to the next are its output

Output is compared whole; `…` stands for any text within a line. Commands that only look (`LOOKS`) are run again until
they show what the page says, since a message takes its time. Commands that show nothing on the page say nothing here.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.brokers import mosquitto
from tests.support.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(console|toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+)(, further down)?")
LOOKS = ("curl", "mosquitto_sub", "grep")
PATIENCE_S, ALL_S = 20.0, 120.0
TOOLS = ("bash", "curl", "jq", "mosquitto_pub", "mosquitto_sub")


@dataclass(frozen=True)
class WrittenFile:
    """A file that the reader writes, or goes on with."""

    name: str
    text: str
    goes_on: bool


@dataclass(frozen=True)
class Command:
    """A line that the reader types, and what the page says comes."""

    line: str
    output: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(".*".join(re.escape(part) for part in self.output.split("…")))


def steps(page: str) -> Iterator[WrittenFile | Command]:
    for kind, text in BLOCK.findall(page):
        if kind != "console":
            named = FILE.fullmatch(text.split("\n", 1)[0])
            assert named, f"a block of {kind} that names no file:\n{text}"
            yield WrittenFile(named[1], text, named[2] is not None)
            continue
        before, *commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        assert before == "", f"output before the first command:\n{text}"
        for command in commands:
            line, _, output = command.partition("\n")
            yield Command(line, output.rstrip("\n"))


class Shell:
    """One bash in a folder of its own, so that variables and background processes stay."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._script, self._output = process, folder / ".command", folder / ".output"

    def run(self, line: str) -> tuple[int, str]:
        """Exit status, and what it wrote."""
        self._script.write_text(line)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f". {self._script} > {self._output} 2>&1 < /dev/null; echo $?\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline()
        assert status, f"the shell is gone, or {ALL_S} s are over, at: {line}"
        return int(status), self._output.read_text().rstrip("\n")

    def follow(self, command: Command) -> None:
        until = time.monotonic() + PATIENCE_S
        status, output = self.run(command.line)
        while command.line.startswith(LOOKS) and not command.pattern.fullmatch(output) and time.monotonic() < until:
            time.sleep(0.1)
            status, output = self.run(command.line)
        promised = f"$ {command.line}\n{command.output}\n"
        assert command.pattern.fullmatch(output), f"the page says:\n{promised}\nbut this came:\n{output}"
        assert status == 0, f"exit status {status}: {promised}"


@contextmanager
def shell(folder: Path, **environment: str) -> Iterator[Shell]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash"],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(ALL_S, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield Shell(process, folder)
    finally:
        watchdog.cancel()
        os.killpg(process.pid, signal.SIGKILL)  # and whatever the page has left running
        process.communicate()


async def test_every_line_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    async with mosquitto() as broker:
        await asyncio.to_thread(walk_through, tmp_path, broker)


def walk_through(folder: Path, broker: str) -> None:
    with shell(folder, BROKER=broker, API_PORT=str(free_port())) as reader:
        for step in steps(PAGE.read_text()):
            if isinstance(step, Command):
                reader.follow(step)
            else:
                with (folder / step.name).open("a" if step.goes_on else "x") as file:
                    file.write(step.text)
        assert reader.run("jobs -r") == (0, "")
        for log in folder.glob("*.log"):
            assert "Traceback" not in log.read_text(), log.read_text()


def test_every_file_that_the_tutorial_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_a_page_that_promises_what_does_not_come_is_found_out(tmp_path: Path) -> None:
    with shell(tmp_path) as reader:
        (right,) = steps("```console\n$ echo 12 degC\n1… degC\n```")
        (wrong,) = steps("```console\n$ echo 12 degC\n1… degF\n```")
        (silent,) = steps("```console\n$ echo 12 degC\n```")
        (failing,) = steps("```console\n$ false\n```")
        assert isinstance(right, Command)
        reader.follow(right)
        for command in (wrong, silent, failing):
            assert isinstance(command, Command)
            with pytest.raises(AssertionError):
                reader.follow(command)
