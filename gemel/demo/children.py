"""The plant's processes: started, watched, and all gone at the end, whatever the end is."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemel.errors import GemelError

STOP_S = 10.0  # how long a process may take to end by itself
READY_S = 60.0
TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class ChildDied(GemelError):
    """A process of the plant ended by itself. Shows the end of what it logged."""

    def __init__(self, name: str, status: int, log: Path) -> None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        super().__init__(f"{name} ended by itself (exit status {status}); the end of {log}:\n{tail}")
        self.name, self.status = name, status


@dataclass(frozen=True, slots=True)
class Child:
    """One running process."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    foundation: bool  # broker and chain: ended after the services that stand on them


class Children:
    """Starts processes and ends all of them. `async with Children(log_dir)`."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[Child] = []
        self._died: asyncio.Queue[Child] = asyncio.Queue()
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def __aenter__(self) -> Children:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.stop())

    async def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        foundation: bool = False,
    ) -> Child:
        """`python -m module arguments`; stderr goes to `<log dir>/<name>.log`, stdout is kept for `ready_line`."""
        log = self._log_dir / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is ours to handle: the plant ends in order
                preexec_fn=_die_with_parent,
            )
        child = Child(name, process, log, foundation)
        self._children.append(child)
        watcher = asyncio.create_task(self._watch(child), name=f"watch {name}")
        self._watchers.add(watcher)
        return child

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if not self._stopping:
            await self._died.put(child)

    async def ready_line(self, child: Child) -> str:
        """What the process says behind `ready ` on its stdout. Raises ChildDied, TimeoutError."""
        assert child.process.stdout is not None
        async with asyncio.timeout(READY_S):
            while line := await child.process.stdout.readline():
                text = line.decode(errors="replace").strip()
                if text.startswith("ready "):
                    return text.removeprefix("ready ")
        raise ChildDied(child.name, await child.process.wait(), child.log)

    async def run_to_end(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """A process that is meant to end, with status 0. Raises ChildDied otherwise."""
        log = self._log_dir / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if status != 0:
            raise ChildDied(name, status, log)

    async def first_death(self, expected: Mapping[str, int] | None = None) -> None:
        """Wait until a process ends that should not; raises ChildDied. `expected`: names that may end so."""
        while True:
            child = await self._died.get()
            status = child.process.returncode or 0
            if expected is None or expected.get(child.name) != status:
                raise ChildDied(child.name, status, child.log)

    async def stop(self) -> None:
        """End all: services first, then what they stand on; whoever does not end by itself is killed."""
        self._stopping = True
        for foundation in (False, True):
            await asyncio.gather(*(_end(c.process) for c in self._children if c.foundation == foundation))
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._children.clear()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _die_with_parent() -> None:
    """In the child, before exec: a supervisor that is killed takes its plant along."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
