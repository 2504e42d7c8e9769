"""Whether the event follower misses or repeats anything: `python -m benchmarks.follower --json`.

A writer moves stake tokens until 1,000 Transfer events are on the chain. Meanwhile the follower, a process of its own
whose consumer commits each delivery to a file, takes 5 ms over it and drops ids that it knows, is killed 20 times
(kill -9, at random moments, many while it works off what gathered), and the node restarts five times. No
confirmations are asked for, which is the hardest setting.

- anvil      Restarts with its state dumped cleanly, and its last three blocks are replaced a dozen times, mostly
             after the follower has seen them; every second time the lost branch comes back with the same hashes, and
             its events must come back as well.
- embedded   The node is killed with -9 while a transaction is under way. It has one block maker and never replaces
             a block.

In the end the chain's own list of logs (eth_getLogs, asked without the follower's code) is laid beside what the
consumer holds, deliveries less retractions. `missing`: logs without an event. `repeated`: second events for one log.
`stale`: events whose log is not on the chain. All three must be 0. What was handed out a second time under its old id
after a kill, which consumers drop, is told as `again_after_kill`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from gemel.adapters.contract_abi import Values, load
from gemel.adapters.event_follower import Follower
from gemel.adapters.evm_node import EvmNode, Log, Patience
from gemel.adapters.typed_transactions import Transaction, sign_transaction
from gemel.sqlite import connect
from gemel.wire.identity import Identity

ANVIL = Path(__file__).resolve().parents[1] / "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
CHAIN_ID = 31337
GWEI = 10**9
GENESIS_S = 1_700_000_000  # anvil answers before it has read its state, and would show another genesis block then
DEPTH = 3  # blocks that a reorganisation replaces
SEEN_SHARE = 0.7  # of branches that are left alone until the follower has seen them
POLL_S = 0.05
EFFECT_S = 0.005
READY_S = 30.0
SEEN_S = 15.0
SETTLE_S = 60.0  # for the last process to catch up
WRITER = Identity((7).to_bytes(32, "big"))
TOKEN = load("StakeToken")
TRANSFER = next(each for each in TOKEN.events.values() if each.name == "Transfer")

_EFFECTS = """
CREATE TABLE IF NOT EXISTS effects(
    id TEXT NOT NULL, retracted INTEGER NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (id, retracted));
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    events: int = 1_000
    kills: int = 20
    restarts: int = 5
    reorganisations: int = 12  # anvil only


QUICK = Sizes(events=120, kills=4, restarts=2, reorganisations=4)


# --- the follower's process -------------------------------------------------------------------------


def _transfer(log: Log) -> tuple[str, Values] | None:
    return (TRANSFER.name, TRANSFER.decode_log(log.topics, log.data)) if log.topics[0] == TRANSFER.selector else None


async def follow(url: str, token: str, folder: Path) -> None:
    """Until it is killed: each delivery is committed, and then takes its time before the next is asked for."""
    effects = connect(folder / "effects.sqlite", _EFFECTS, synchronous="NORMAL")
    async with EvmNode(url, Patience(request_s=2.0, give_up_s=1.0)) as node:
        follower = Follower(node, (token,), poll_s=POLL_S, decode=_transfer)
        async for event in follower.events(folder / "checkpoint.sqlite"):
            effects.execute(
                "INSERT INTO effects VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (event.id, event.retracted),
            )
            await asyncio.sleep(EFFECT_S)  # committed and not acknowledged: here a kill hurts most


@dataclass
class Followers:
    """One process after the other on the same files."""

    url: str
    token: str
    folder: Path
    killed: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """The next one."""
        with (self.folder / "follower.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "benchmarks.follower", "--follow", self.url, self.token, str(self.folder)],
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """kill -9. Raises RuntimeError if it had ended by itself, which it never should."""
        assert self.process is not None
        if self.process.returncode is not None:
            raise RuntimeError(f"the follower ended: {(self.folder / 'follower.log').read_text()[-2000:]}")
        self.process.kill()
        await self.process.wait()
        self.killed += 1

    async def kill_again_and_again(self, kills: int, draw: random.Random) -> None:
        """Each some moments after it has delivered something; one more lives on."""
        for _ in range(kills):
            before = self.deliveries()
            await self.start()
            with contextlib.suppress(TimeoutError):  # there may be nothing new
                async with asyncio.timeout(5):
                    while self.deliveries() == before:  # noqa: ASYNC110  what it waits for is in another process
                        await asyncio.sleep(0.002)
            await asyncio.sleep(draw.choice((draw.uniform(0, 0.05), draw.uniform(0, 0.2), draw.uniform(0, 2))))
            await self.kill()
        await self.start()

    def effects(self) -> list[tuple[str, bool, int]]:
        """Id, whether it is a retraction, how often it came."""
        file = self.folder / "effects.sqlite"
        if not file.exists():
            return []
        with contextlib.closing(connect(file, _EFFECTS)) as db:
            return [(name, bool(retracted), times) for name, retracted, times in db.execute("SELECT * FROM effects")]

    def deliveries(self) -> int:
        """How many there were so far."""
        return sum(times for _, _, times in self.effects())

    def held(self) -> Counter[str]:
        """What the consumer believes to be on the chain: place of the log, and how many events it has for it."""
        effects = self.effects()
        retracted = {name for name, was_retracted, _ in effects if was_retracted}
        return Counter(name.partition(".")[0] for name, _, _ in effects if name not in retracted)

    async def until_held(self, places: set[str], deadline_s: float) -> None:
        """Until the consumer holds exactly these, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while set(self.held()) != places:  # noqa: ASYNC110  what it waits for is in another process
                    await asyncio.sleep(0.02)


# --- the chain --------------------------------------------------------------------------------------


@dataclass
class Node:
    """A chain's process on a port of its own, which stays the same over restarts."""

    kind: str
    folder: Path
    port: int
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        state, port, chain_id = str(self.folder / self.kind), str(self.port), str(CHAIN_ID)
        command = {
            "anvil": [
                *[str(ANVIL), "--state", state, "--port", port, "--chain-id", chain_id, "--no-mining", "--quiet"],
                *["--timestamp", str(GENESIS_S)],
            ],
            "embedded": [
                *[sys.executable, "-m", "gemel.embedded.chain", "--db", state, "--port", port],
                *["--chain-id", chain_id, "--alloc", WRITER.address],
            ],
        }[self.kind]
        with (self.folder / "node.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        async with asyncio.timeout(READY_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await self.rpc("eth_chainId")
                    return
                await asyncio.sleep(0.02)

    async def stop(self, number: signal.Signals) -> None:
        """End it."""
        assert self.process is not None
        self.process.send_signal(number)
        await self.process.wait()

    async def rpc(self, method: str, *parameters: object) -> Any:
        """The result of a request. Raises RuntimeError for a refusal, aiohttp.ClientError."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
        async with self.session.post(self.url, json=body) as answer:
            document = await answer.json()
        if "result" not in document:
            raise RuntimeError(f"{method}: {document.get('error')}")
        return document["result"]


@dataclass(frozen=True)
class Block:
    """What it takes to make a block once more, with the same hash."""

    hash: str
    timestamp_s: int
    base_fee_wei: int
    raws: tuple[str, ...]


@dataclass
class Writer:
    """Makes the chain's blocks."""

    node: Node
    draw: random.Random
    token: str = ""
    events: int = 0  # on the chain now, the founding one included
    nonce: int = 0
    reorganisations: int = 0
    came_back: int = 0  # blocks that were lost, and then the chain's again

    async def found(self) -> None:
        """Deploy the token."""
        if self.node.kind == "anvil":
            await self.node.rpc("anvil_setBalance", WRITER.address, hex(10**24))
        (raw,) = self._sign([(None, TOKEN.deployment([WRITER.address], [10**24]))], gas=3_000_000)
        await self._put([raw])
        (block,) = [await self.node.rpc("eth_getBlockByNumber", "latest", False)]
        receipt = await self.node.rpc("eth_getTransactionReceipt", block["transactions"][0])
        self.token, self.events = receipt["contractAddress"], 1

    def _sign(self, calls: Sequence[tuple[str | None, bytes]], gas: int = 60_000) -> list[str]:
        raws = []
        for to, data in calls:
            transaction = Transaction(CHAIN_ID, self.nonce, GWEI, 100 * GWEI, gas, to, data)
            raws.append("0x" + sign_transaction(transaction, WRITER).hex())
            self.nonce += 1
        return raws

    def transfers(self, number: int) -> list[str]:
        """So many signed transfers. Their amounts are drawn, so that the same nonce makes another transaction."""
        transfer = TOKEN.functions["transfer"]
        self.events += number
        return self._sign(
            [(self.token, transfer.encode("0x" + "22" * 20, self.draw.randrange(1, 10**15))) for _ in range(number)]
        )

    async def _put(self, raws: Sequence[str]) -> None:
        for raw in raws:
            await self.node.rpc("eth_sendRawTransaction", raw)
        if self.node.kind == "anvil":
            await self.node.rpc("evm_mine")

    async def block(self) -> None:
        """One more, of one to three transfers; the embedded chain makes a block of each."""
        await self._put(self.transfers(self.draw.randint(1, 3)))

    async def restart(self) -> None:
        """The node ends and comes back. The embedded chain is killed while it works; what it took it must keep."""
        if self.node.kind == "anvil":
            await self.node.stop(signal.SIGTERM)
            await self.node.start()
            return
        (raw,) = self.transfers(1)
        sending = asyncio.create_task(self._put([raw]))
        await asyncio.sleep(self.draw.uniform(0, 0.1))
        await self.node.stop(signal.SIGKILL)
        await asyncio.gather(sending, return_exceptions=True)
        await self.node.start()
        if int(await self.node.rpc("eth_getTransactionCount", WRITER.address, "latest"), 16) < self.nonce:
            await self._put([raw])

    async def reorganise(self, seen: Callable[[], Awaitable[None]]) -> None:
        """The last DEPTH blocks are replaced; every second time they come back in place of what replaced them.

        `seen` returns once the follower has seen the chain as it is.
        """
        at, (nonce, events) = await self.node.rpc("evm_snapshot"), (self.nonce, self.events)
        lost = [await self._timed(self.transfers(self.draw.randint(1, 3))) for _ in range(DEPTH)]
        after = self.nonce, self.events
        await self._perhaps(seen)
        await self.node.rpc("evm_revert", at)
        at, (self.nonce, self.events) = await self.node.rpc("evm_snapshot"), (nonce, events)
        for _ in range(DEPTH):
            await self._timed(self.transfers(self.draw.randint(1, 3)))
        await self._perhaps(seen)
        self.reorganisations += 1
        if self.reorganisations % 2:
            return
        await self.node.rpc("evm_revert", at)
        self.nonce, self.events = after
        await self.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(lost[0].base_fee_wei))
        for block in lost:
            again = await self._timed(block.raws, block.timestamp_s)
            self.came_back += again.hash == block.hash

    async def _timed(self, raws: Sequence[str], timestamp_s: int | None = None) -> Block:
        if timestamp_s is None:
            head = await self.node.rpc("eth_getBlockByNumber", "latest", False)
            timestamp_s = int(head["timestamp"], 16) + 1
        await self.node.rpc("evm_setNextBlockTimestamp", timestamp_s)
        await self._put(raws)
        made = await self.node.rpc("eth_getBlockByNumber", "latest", False)
        if len(made["transactions"]) != len(raws):
            raise RuntimeError(f"a block of {len(made['transactions'])} transactions, {len(raws)} were sent")
        return Block(made["hash"], timestamp_s, int(made["baseFeePerGas"], 16), tuple(raws))

    async def _perhaps(self, seen: Callable[[], Awaitable[None]]) -> None:
        await (seen() if self.draw.random() < SEEN_SHARE else asyncio.sleep(self.draw.uniform(0, 0.1)))

    async def places(self) -> set[str]:
        """The chain's own list of the logs, named as events are."""
        query = {"address": self.token, "fromBlock": "0x0", "toBlock": "latest"}
        logs = await self.node.rpc("eth_getLogs", query)
        return {f"{log['blockHash'][2:]}-{int(log['logIndex'], 16)}" for log in logs}


# --- chaos ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Node]:
    """A new chain, ended in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    async with aiohttp.ClientSession() as session:
        node = Node(kind, folder, port, session)
        await node.start()
        try:
            yield node
        finally:
            await node.stop(signal.SIGKILL)


async def write(writer: Writer, followers: Followers, sizes: Sizes, draw: random.Random) -> None:
    """Until all events are on the chain, no faster than followers die: every part of it meets some of them."""

    async def seen() -> None:
        await followers.until_held(await writer.places(), SEEN_S)

    restarts = sorted(draw.sample(range(10, sizes.events - 20), sizes.restarts))
    number = sizes.reorganisations if writer.node.kind == "anvil" else 0
    reorganisations = sorted(draw.sample(range(10, sizes.events - 20), number))
    while writer.events < sizes.events:
        if writer.events * sizes.kills > (followers.killed + 1) * sizes.events:
            await asyncio.sleep(0.01)
        elif restarts and writer.events >= restarts[0]:
            restarts.pop(0)
            await writer.restart()
        elif reorganisations and writer.events >= reorganisations[0]:
            reorganisations.pop(0)
            await writer.reorganise(seen)
        else:
            await writer.block()


async def chaos(kind: str, seed: int, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """One chain's part."""
    draw, began = random.Random(f"{kind}-{seed}"), time.perf_counter()
    async with running(kind, folder) as node:
        writer = Writer(node, random.Random(draw.random()))
        await writer.found()
        followers = Followers(node.url, writer.token, folder)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(followers.kill_again_and_again(sizes.kills, random.Random(draw.random())))
                tasks.create_task(write(writer, followers, sizes, draw))
            await writer.block()  # higher than anything before
            places = await writer.places()
            await followers.until_held(places, SETTLE_S)
            await asyncio.sleep(1.0)  # for what comes too often
            await followers.kill()
        finally:
            if followers.process is not None and followers.process.returncode is None:
                followers.process.kill()
                await followers.process.wait()
    held, effects = followers.held(), followers.effects()
    return {
        "events": len(places),
        "missing": len(places - held.keys()),
        "repeated": sum(number - 1 for number in held.values()),
        "stale": len(held.keys() - places),
        "lost_by_the_node": writer.events - len(places),
        "kills": sizes.kills,
        "node_restarts": sizes.restarts,
        "node_ends_by": "SIGTERM, state dumped" if kind == "anvil" else "kill -9",
        "reorganisations": writer.reorganisations,
        "reorganised_blocks_each": DEPTH if writer.reorganisations else 0,
        "blocks_that_came_back": writer.came_back,
        "retractions": sum(retracted for _, retracted, _ in effects),
        "delivered_anew": sum("." in name and not retracted for name, retracted, _ in effects),
        "again_after_kill": sum(times - 1 for _, _, times in effects),
        "confirmations": 0,
        "took_s": round(time.perf_counter() - began, 1),
    }


def measure(seed: int = 1, sizes: Sizes | None = None, only: Sequence[str] = ()) -> dict[str, Any]:
    """Both chains, one after the other; anvil is left out, and named so, where it is not installed."""
    found: dict[str, Any] = {
        "seed": seed,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    for kind in only or ("anvil", "embedded"):
        if kind == "anvil" and not ANVIL.exists():
            found[kind] = "absent: `npm ci` in contracts/ installs it"
            continue
        sys.stderr.write(f"{kind} …\n")
        with TemporaryDirectory() as name:
            found[kind] = asyncio.run(chaos(kind, seed, sizes or Sizes(), Path(name)))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: half a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=["anvil", "embedded"])
    parser.add_argument("--follow", nargs=3, help=argparse.SUPPRESS)  # the follower's own process
    arguments = parser.parse_args()
    if arguments.follow:
        url, token, folder = arguments.follow
        asyncio.run(follow(url, token, Path(folder)))
        return
    found = measure(arguments.seed, QUICK if arguments.quick else Sizes(), arguments.only)
    sys.stdout.write(json.dumps(found, indent=None if arguments.json else 2) + "\n")


if __name__ == "__main__":
    main()
