"""A fleet's services as processes that a test may hold, kill and start again, on a bus that the test chooses."""

from __future__ import annotations

import asyncio
import signal
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from coordinator.machine import Round
from gemel.adapters.evm_chain import EvmChain
from gemel.ports import RoundState
from tests.support.fleet import Fleet, fleet, module_of
from tests.support.services import Service

LOOK_S = 0.02
WAIT_S = 60.0
FINAL = (RoundState.DEPLOYED, RoundState.REJECTED, RoundState.ROLLED_BACK, RoundState.ABORTED)


class Member(Service):
    """One service of the crew."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """As a power cut would."""
        await self.stop(signal.SIGKILL)


class Crew:
    """The services of `plant` by name. `bus_of` gives each its [bus] section; some run other `modules`."""

    def __init__(
        self,
        plant: Fleet,
        chain: EvmChain,
        bus_of: Callable[[str], Mapping[str, Any]],
        modules: Mapping[str, str] = {},
    ) -> None:
        self.plant, self.chain, self._bus_of, self._modules = plant, chain, bus_of, modules
        self.members: dict[str, Member] = {}

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def start(self, *names: str, **rounds: int) -> None:
        """Start services side by side, for the first time or again; `rounds` for a coordinator's first."""
        for name in names:
            if name not in self.members:
                self.members[name] = self._hire(name, rounds)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(self.members[name].start())

    def _hire(self, name: str, rounds: Mapping[str, int]) -> Member:
        path = self.plant._configure(name, rounds)
        document = tomllib.loads(path.read_text()) | {"bus": dict(self._bus_of(name))}
        path.write_text(tomli_w.dumps(document))
        log = self.plant.root / "logs" / f"{name}.log"
        if name in {agent.name for agent in self.plant.plan.agents}:
            return Member("edge_agent", ["run", "--config", str(path)], log)
        return Member(self._modules.get(name, module_of(name)), ["--config", str(path)], log)

    async def end(self) -> None:
        """Stop everybody."""
        for member in self.members.values():
            if member.alive:
                member.signal(signal.SIGCONT)
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    @asynccontextmanager
    async def held(self, *names: str) -> AsyncIterator[None]:
        """These stand still, alive, while the block runs: what only they can do does not happen."""
        for name in names:
            self[name].signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for name in names:
                if self[name].alive:
                    self[name].signal(signal.SIGCONT)

    # --- waiting: for what the chain or the coordinator's own record says -------------------------------

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_S) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await holds():  # noqa: ASYNC110  what other processes do has no event here
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            logs = "\n".join(f"--- {name}\n{member.log[-1500:]}" for name, member in self.members.items())
            raise AssertionError(f"it did not come to this: {what}\n{logs}") from None

    async def state_of(self, number: int) -> RoundState:
        return (await self.chain.round(self.plant.trust.task, number)).state

    async def last_round(self) -> int:
        return (await self.chain.task(self.plant.trust.task)).last_round

    async def on_chain(self, number: int, *states: RoundState, seconds: float = WAIT_S) -> RoundState:
        """The round's state, once it is one of these."""

        async def there() -> bool:
            return await self.state_of(number) in states

        await self.until(there, f"round {number} in {[s.name for s in states]}", seconds)
        return await self.state_of(number)

    async def final(self, number: int, seconds: float = WAIT_S) -> RoundState:
        """How the round ended."""
        return await self.on_chain(number, *FINAL, seconds=seconds)

    def record(self, number: int) -> Round | None:
        """What the coordinator has written down of a round."""
        path = self._round_file(number)
        return msgspec.json.decode(path.read_bytes(), type=Round) if path.exists() else None

    def _round_file(self, number: int) -> Path:
        return self.plant.state("coordinator") / "rounds" / f"{number:06d}" / "round.json"

    async def recorded(self, number: int, holds: Callable[[Round], bool], what: str) -> Round:
        """The coordinator's record of a round, once it is so."""
        found: Round | None = None

        async def there() -> bool:
            nonlocal found
            found = self.record(number)
            return found is not None and holds(found)

        await self.until(there, f"round {number} recorded as {what}")
        assert found is not None
        return found


@asynccontextmanager
async def crew(
    folder: Path,
    agents: Mapping[str, str],
    bus_of: Callable[[Fleet, str], Mapping[str, Any]] = lambda plant, _name: {"url": plant.broker_url},
    *,
    validators: int = 3,
    modules: Mapping[str, str] = {},
    **options: Any,
) -> AsyncIterator[Crew]:
    """A founded fleet, agents with examples to learn from, nobody started yet; `options` as fleet's."""
    async with fleet(folder, agents, validators=validators, **options) as plant:
        for seed, name in enumerate(agents):
            await plant.give_examples(name, seed)
        chain = await plant.chain_of("operator")
        hired = Crew(plant, chain, partial(bus_of, plant), modules)
        try:
            yield hired
        finally:
            await hired.end()
