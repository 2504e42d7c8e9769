"""What the twins' way costs, beside doing nothing: `python -m benchmarks.twins --json`.

Everything runs in this one call, on one mosquitto with `set_tcp_nodelay true`, with updates of about 1 KB and eight
properties at QoS 1, each part in a process of its own:

- durable    A persistent session is filled while its subscriber is away; then the subscriber comes and takes it all.
             Bare: an aiomqtt loop that counts. Registry: `python -m twin_registry`, every update committed with
             synchronous FULL before it is acknowledged. From the first message taken to the last.
- latency    From a sensor's publish to the twin on another client, which is retained. Bare: a relay that publishes
             what it hears. Agent: `python -m edge_agent`, whose documents are coalesced to `twin_rate_hz`; a reading
             counts as arrived with the first twin that holds it or a younger one.
- loss       All messages, with the registry killed five times and its disk held up by another writer.
- many       Memory for each twin, and from the start of the process to its first answer.
- history    Pages of a twin with a million readings, over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import json
import logging
import multiprocessing
import os
import platform
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gemel.adapters.registry_stores import open_stores
from gemel.adapters.sql_keep import Keep
from gemel.ports import Sample
from gemel.twin.state import Property, Quality, Twin, blank, to_json
from gemel.wire import topics

SITE = "north"
NAMES = [f"temperature-{n}" for n in range(8)]
IN_FLIGHT = 200
READY_S = 60.0
TURNS = 3  # a figure is the median of so many, one beside the other
TWIN_RATE_HZ = 100


def twin(asset: str, version: int) -> Twin:
    """About 1 KB."""
    now_ms = 1_700_000_000_000 + version * 10
    reading = Property(float(version), "degC", now_ms, now_ms, Quality.GOOD)
    empty = blank(SITE, asset)
    return Twin(empty.schema, SITE, asset, version, dict.fromkeys(NAMES, reading), {}, None)


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    durable: int = 30_000
    machines: int = 100
    loss: int = 100_000
    twins: int = 10_000
    points: int = 1_000_000
    latency_s: float = 10.0


QUICK = Sizes(durable=6_000, loss=6_000, twins=1_000, points=100_000, latency_s=4.0)


@contextlib.asynccontextmanager
async def mosquitto(folder: Path) -> AsyncIterator[int]:
    """A broker that queues without bound, on the loopback."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("mosquitto is not installed: apt-get install mosquitto")
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "max_queued_messages 0",
        "max_inflight_messages 0",
        f"user {getpass.getuser()}",
        "log_dest none",
    ]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    broker = await asyncio.create_subprocess_exec(program, "-c", str(folder / "mosquitto.conf"))
    try:
        await asyncio.sleep(0.5)
        yield port
    finally:
        broker.terminate()
        await broker.wait()


def client(port: int, name: str, **more: Any) -> aiomqtt.Client:
    """A session that outlives its connection, as the registry's does."""
    expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
    expiry.SessionExpiryInterval = 86_400
    return aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=expiry,
        max_inflight_messages=IN_FLIGHT,
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        **more,
    )


async def publish_twins(port: int, updates: Sequence[tuple[str, int]]) -> None:
    """All of them, at QoS 1, many under way at a time."""
    waiting = asyncio.Semaphore(IN_FLIGHT)

    async with client(port, "publisher") as publisher, asyncio.TaskGroup() as tasks:

        async def send(asset: str, version: int) -> None:
            try:
                await publisher.publish(topics.twin_state(SITE, asset), to_json(twin(asset, version)), 1, timeout=60)
            finally:
                waiting.release()

        for asset, version in updates:
            await waiting.acquire()
            tasks.create_task(send(asset, version))


def updates(number: int, machines: int) -> list[tuple[str, int]]:
    """So many updates, dealt over the machines."""
    return [(f"press-{n % machines}", n // machines + 1) for n in range(number)]


class Registry:
    """`python -m twin_registry`, on a folder of its own."""

    def __init__(self, folder: Path, port: int, revisions: int = 1_000_000) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.database = folder / "state" / "twins.sqlite"
        self.api, self._metrics = free_port(), free_port()
        self._config = folder / "registry.toml"
        self._config.write_text(
            f'state_dir = "{folder}/state"\napi_port = {self.api}\nmetrics_port = {self._metrics}\n'
            f"max_revisions = {revisions}\n[keep]\nrevisions_days = 36600\nsamples_days = 36600\n"
            f'[bus]\nurl = "mqtt://127.0.0.1:{port}"\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> float:
        """Seconds until it answers."""
        began = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "twin_registry", "--config", str(self._config)]
            self._process = await asyncio.to_thread(subprocess.Popen, command, stdout=log, stderr=log)
        while time.perf_counter() - began < READY_S:
            with contextlib.suppress(OSError):
                await self.get("/twins?limit=1")
                return time.perf_counter() - began
            await asyncio.sleep(0.01)
        raise TimeoutError((self.folder / "log").read_text())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        assert self._process is not None
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait)

    async def get(self, path: str) -> Any:
        """The JSON at a path of its API."""
        return json.loads(await asyncio.to_thread(_fetch, f"http://127.0.0.1:{self.api}{path}"))

    def resident_bytes(self) -> int:
        """Memory that it holds."""
        assert self._process is not None
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stored(self) -> int:
        """Revisions on disk."""
        return int(self.ask("SELECT count(*) FROM revisions")[0][0]) if self.database.exists() else 0

    def last(self) -> int:
        """The newest revision's sequence, at no cost to the registry: there are no more revisions than that."""
        return int(self.ask("SELECT max(sequence) FROM revisions")[0][0] or 0) if self.database.exists() else 0

    def ask(self, query: str) -> list[Any]:
        """Straight from the file."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return connection.execute(query).fetchall()

    async def until_stored(self, number: int, deadline_s: float = 600.0) -> None:
        """Wait for so many revisions."""
        async with asyncio.timeout(deadline_s):
            while self.last() < number or self.stored() < number:  # noqa: ASYNC110  what it waits for is in another process
                await asyncio.sleep(0.2)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  our own loopback
        return bytes(answer.read())


# --- durable --------------------------------------------------------------------------------------


def _bare_loop(port: int, number: int, found: Any) -> None:
    async def loop() -> float:
        began, count = 0.0, 0
        async with client(port, "bare-loop") as subscriber:
            if number == 0:
                await subscriber.subscribe(topics.ALL_TWINS, qos=1)
                return 0.0
            async for _ in subscriber.messages:
                began = began or time.perf_counter()
                count += 1
                if count == number:
                    break
        return time.perf_counter() - began

    found.put(asyncio.run(loop()))


def in_a_process(target: Any, *arguments: Any) -> Any:
    """What `target` puts into the queue that it gets last."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=target, args=(*arguments, found))
    process.start()
    result = found.get(timeout=600)
    process.join()
    return result


async def durable(folder: Path, port: int, number: int, machines: int) -> dict[str, Any]:
    """Updates a second: a bare loop and the registry, in turns. The share is the median of the turns' shares."""
    await asyncio.to_thread(in_a_process, _bare_loop, port, 0)
    turns = []
    for turn in range(TURNS):
        registry = Registry(folder / f"durable-{turn}", port)
        await registry.start()
        await registry.stop()
        await publish_twins(port, updates(number, machines))
        bare_s = await asyncio.to_thread(in_a_process, _bare_loop, port, number)
        await registry.start()
        await registry.until_stored(number)
        await registry.stop()
        ((first_ms, last_ms),) = registry.ask("SELECT min(received_ms), max(received_ms) FROM revisions")
        turns.append((number / bare_s, number / ((last_ms - first_ms) / 1000)))
    shares = [ours / bare for bare, ours in turns]
    return {
        "updates": number,
        "machines": machines,
        "bytes_each": len(to_json(twin("press-1", 1))),
        "turns": TURNS,
        "bare_loop_per_s": round(statistics.median(bare for bare, _ in turns)),
        "registry_durable_per_s": round(statistics.median(ours for _, ours in turns)),
        "shares": [round(share, 2) for share in shares],
        "share": round(statistics.median(shares), 2),
    }


# --- latency --------------------------------------------------------------------------------------


def _bare_relay(port: int, found: Any) -> None:
    async def relay() -> None:
        async with client(port, "relay") as both:
            await both.subscribe("plant/relay/sensors", qos=1)
            found.put("ready")
            async for message in both.messages:
                await both.publish(topics.twin_state(SITE, "relay"), message.payload, 1, retain=True)

    asyncio.run(relay())


def sensor_message(number: int) -> bytes:
    """About 1 KB, whose values say which it is."""
    body: dict[str, Any] = {"time": 1_700_000_000_000 + number, "pad": ""} | dict.fromkeys(NAMES, number)
    body["pad"] = "x" * (1000 - len(json.dumps(body)))
    return json.dumps(body).encode()


async def latencies(port: int, asset: str, rate: int, seconds: float, first: int) -> dict[str, float]:
    """Milliseconds from a reading's publish to the first twin that holds it or a younger one.

    Values count up from `first`, above those of earlier runs: what is retained from these answers no reading.
    """
    number = int(rate * seconds)
    sent, arrived, done = [0.0] * number, [0.0] * number, asyncio.Event()

    async def listen(subscriber: aiomqtt.Client) -> None:
        reached = 0
        async for message in subscriber.messages:
            document, now = json.loads(message.payload), time.perf_counter()  # type: ignore[arg-type]
            known = document.get("properties", document).get(NAMES[0])
            value = known["value"] if isinstance(known, dict) else known
            held = int(value or 0) + 1 - first
            for n in range(reached, min(number, held)):
                arrived[n] = now
            reached = max(reached, held)
            if reached >= number:
                done.set()

    async with (
        client(port, f"listener-{asset}-{first}") as subscriber,
        client(port, f"sensor-{asset}-{first}") as sensor,
    ):
        await subscriber.subscribe(topics.twin_state(SITE, asset), qos=1)
        listener = asyncio.create_task(listen(subscriber))
        await asyncio.sleep(0.5)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for n in range(number):
                await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
                sent[n] = time.perf_counter()
                tasks.create_task(sensor.publish(f"plant/{asset}/sensors", sensor_message(first + n), 1, timeout=60))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 10)
        listener.cancel()
    took = sorted(1000 * (b - a) for a, b in zip(sent, arrived, strict=True) if b)[: number or 1]
    return {
        "rate_per_s": rate,
        "achieved_per_s": round(number / max(1e-9, sent[-1] - sent[0])),
        "missing": number - len(took),
        "p50_ms": round(took[len(took) // 2], 1),
        "p99_ms": round(took[int(len(took) * 0.99)], 1),
    }


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        "p99_ms_each": [run["p99_ms"] for run in runs]
    }


async def latency(folder: Path, port: int, seconds: float) -> dict[str, Any]:
    """At 500 and 1,000 messages a second: a bare relay, and an edge agent."""
    relay = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.twins", "--relay", str(port))
    agent_folder = folder / "agent"
    agent_folder.mkdir()
    mapping = '[[source]]\ntopic = "plant/agent/sensors"\ntime = "time"\n' + "".join(
        f'[source.properties.{name}]\nunit = "degC"\nminimum = -1\nmaximum = 1e12\n' for name in NAMES
    )
    (agent_folder / "sensors.toml").write_text(mapping)
    (agent_folder / "agent.toml").write_text(
        f'state_dir = "{agent_folder}/state"\nsite = "{SITE}"\nname = "gateway"\nasset = "agent"\n'
        f'sensors_file = "{agent_folder}/sensors.toml"\ntwin_rate_hz = {TWIN_RATE_HZ}\n'
        f'metrics_port = {free_port()}\n[bus]\nurl = "mqtt://127.0.0.1:{port}"\n'
    )
    with (agent_folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "edge_agent", "run", "--config", str(agent_folder / "agent.toml")]
        agent = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        await asyncio.sleep(8)
        found: dict[str, Any] = {"coalescing_ms": round(1000 / TWIN_RATE_HZ), "seconds": seconds, "turns": TURNS}
        first = 1
        for rate in (500, 1000):
            turns: dict[str, list[dict[str, float]]] = {"relay": [], "agent": []}
            for _ in range(TURNS):
                for asset, runs in turns.items():
                    runs.append(await latencies(port, asset, rate, seconds, first))
                first += int(rate * seconds)
            found[str(rate)] = {
                "bare_relay": _medians(turns["relay"]),
                "agent": _medians(turns["agent"]),
                "p99_ratio": round(
                    statistics.median(
                        ours["p99_ms"] / bare["p99_ms"]
                        for bare, ours in zip(turns["relay"], turns["agent"], strict=True)
                    ),
                    2,
                ),
            }
    except IndexError as error:
        raise RuntimeError(f"no twin came: {(agent_folder / 'log').read_text()[-400:]}") from error
    else:
        return found
    finally:
        for process in (agent, relay):
            if process.returncode is None:
                process.terminate()
            await process.wait()


# --- loss, many, history --------------------------------------------------------------------------


async def loss(folder: Path, port: int, number: int) -> dict[str, Any]:
    """Sent and stored, with five kills and another writer that holds the disk up."""
    registry = Registry(folder / "loss", port)
    await registry.start()
    publishing = asyncio.create_task(publish_twins(port, updates(number, 10)))
    for kill in range(1, 6):
        await registry.until_stored(number * kill // 7)
        await registry.stop(signal.SIGKILL)
        await registry.start()
        with contextlib.closing(sqlite3.connect(registry.database, timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(1.0)
            other.execute("COMMIT")
    await publishing
    with contextlib.suppress(TimeoutError):
        await registry.until_stored(number, 120)
    await registry.stop()
    ((stored, machines),) = registry.ask("SELECT count(*), count(DISTINCT twin) FROM revisions")
    return {"sent": number, "stored": stored, "machines": machines, "kills": 5, "slow_s_each": 1.0}


async def many(folder: Path, port: int, number: int) -> dict[str, Any]:
    """Memory for each twin, and the first answer after a restart."""
    registry = Registry(folder / "many", port)
    await registry.start()
    before = registry.resident_bytes()
    await publish_twins(port, updates(number, number))
    await registry.until_stored(number)
    filled = registry.resident_bytes()
    await registry.stop()
    answer_s = await registry.start()
    after = registry.resident_bytes()
    listed_at = time.perf_counter()
    await registry.get("/twins?where=temperature-1%3E0")
    search_s = time.perf_counter() - listed_at
    await registry.stop()
    empty = Registry(folder / "empty", port)
    empty_s = await empty.start()
    await empty.stop()
    return {
        "twins": number,
        "bytes_per_twin_when_filled": round((filled - before) / number),
        "bytes_per_twin_after_restart": round((after - before) / number),
        "first_answer_s": round(answer_s, 2),
        "first_answer_empty_s": round(empty_s, 2),
        "search_first_page_ms": round(search_s * 1000),
    }


async def history(folder: Path, port: int, points: int) -> dict[str, Any]:
    """Pages of one twin's history, milliseconds over HTTP."""
    registry = Registry(folder / "history", port)
    registry.database.parent.mkdir(parents=True)
    start_ms, chunk = 1_700_000_000_000, 10_000
    async with open_stores(f"sqlite:///{registry.database}", Keep(samples_ms=2**53)) as stores:
        await stores.twins.put(twin("press-1", 1), 1)
        for begin in range(0, points, chunk):
            samples = [Sample(start_ms + n * 1000, float(n % 977), Quality.GOOD) for n in range(begin, begin + chunk)]
            await stores.twins.put_samples(SITE, "press-1", {NAMES[0]: samples})
        await stores.twins.tidy(start_ms + points * 1000)
    await registry.start()
    middle, found = start_ms + points * 500, {"points": points}
    base = f"/twins/{SITE}/press-1/series/{NAMES[0]}?limit=1000&from="
    pages = {
        "raw_from_the_middle": f"{base}{middle}",
        "minutes_from_the_middle": f"{base}{middle}&step_s=60",
        "hours_of_everything": f"{base}0&step_s=3600",
        "days_of_everything": f"{base}0&step_s=86400",
    }
    result: dict[str, Any] = dict(found)
    for name, path in pages.items():
        took = []
        for _ in range(20):
            began = time.perf_counter()
            page = await registry.get(path)
            took.append((time.perf_counter() - began) * 1000)
        rows = len(page["samples"]) + len(page["buckets"])
        result[name] = {"rows": rows, "p50_ms": round(statistics.median(took), 1), "max_ms": round(max(took), 1)}
    await registry.stop()
    return result


async def measure(sizes: Sizes, only: Sequence[str]) -> dict[str, Any]:
    """Everything, one after the other, on a broker of its own each."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "seed": None,  # nothing is drawn by chance
        "load": {},
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Any] = {
            "durable": lambda port: durable(folder, port, sizes.durable, sizes.machines),
            "latency": lambda port: latency(folder, port, sizes.latency_s),
            "loss": lambda port: loss(folder, port, sizes.loss),
            "many": lambda port: many(folder, port, sizes.twins),
            "history": lambda port: history(folder, port, sizes.points),
        }
        for part, run in parts.items():
            if only and part not in only:
                continue
            found["load"][part] = round(os.getloadavg()[0], 1)  # before it: above about 1, others were at work
            async with mosquitto(folder) as port:
                found[part] = await run(port)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: about a minute")
    parser.add_argument("--only", action="append", default=[], help="durable, latency, loss, many or history")
    parser.add_argument("--relay", type=int, help=argparse.SUPPRESS)  # the bare relay's own process
    arguments = parser.parse_args()
    if arguments.relay:
        _bare_relay(arguments.relay, multiprocessing.SimpleQueue())
        return
    logging.getLogger("mqtt").setLevel(logging.ERROR)  # aiomqtt warns of what is meant: many publishes under way
    found = asyncio.run(measure(QUICK if arguments.quick else Sizes(), arguments.only))
    sys.stdout.write(json.dumps(found, indent=None if arguments.json else 2) + "\n")


if __name__ == "__main__":
    main()
