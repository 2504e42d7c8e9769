"""A real mosquitto with the plant's own configuration, on a free port of the loopback, for tests."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ports import free_port

REPOSITORY = Path(__file__).parents[2]
EXECUTABLE = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_S = 10.0


def need_mosquitto() -> str:
    """Its path; skips the test where it is not installed (which fails in CI)."""
    if EXECUTABLE is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    return EXECUTABLE


@dataclass(frozen=True)
class Broker:
    """A running broker."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def said(self, text: str) -> int:
        """How often `text` stands in its log."""
        return self.log.read_text().count(text)

    def wait_until_said(self, text: str, times: int) -> None:
        """Fails the test if its log does not come to say `text` so often."""
        _wait(lambda: self.said(text) >= times, f"say {text!r}", self)

    def reload(self) -> None:
        """Have it read its access and revocation lists again, and wait until it has."""
        before = self.said("Reloading config")
        self.process.send_signal(signal.SIGHUP)
        self.wait_until_said("Reloading config", before + 1)


def _wait(condition: Callable[[], bool], what: str, broker: Broker) -> None:
    until = time.monotonic() + START_S
    while not condition():
        if broker.process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"mosquitto did not {what}:\n{broker.log.read_text()}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _with_dynamic_security(text: str) -> str:
    snippet = (REPOSITORY / "mosquitto" / "dynamic-security.conf").read_text()
    plugin = re.search(r"^plugin (.+)$", snippet, flags=re.MULTILINE)
    assert plugin, "dynamic-security.conf loads no plugin"
    if not Path(plugin[1]).exists():
        pytest.skip(f"{plugin[1]} is not installed")
    text, count = re.subn(
        r"^acl_file .*$", snippet.replace("/var/lib/mosquitto/", "/etc/mosquitto/gemel/"), text, flags=re.M
    )
    assert count == 1, "mosquitto.conf has no acl_file"
    return text


@contextmanager
def plant_broker(directory: Path, *, port: int = 0, dynamic: bool = False) -> Iterator[Broker]:
    """Run mosquitto/mosquitto.conf with port, paths and log replaced, and nothing else.

    `directory` holds ca.pem, broker.pem, broker.key, revoked.pem and acl. For a `dynamic` one, whose rights are those
    of mosquitto/dynamic-security.conf, it holds dynamic-security.json in place of acl.
    """
    executable = need_mosquitto()
    port, log = port or free_port(), directory / "mosquitto.log"
    text = (REPOSITORY / "mosquitto" / "mosquitto.conf").read_text()
    if dynamic:
        text = _with_dynamic_security(text)
    for pattern, value in {
        r"^listener \d+$": f"listener {port} 127.0.0.1",
        r"/etc/mosquitto/gemel/": f"{directory}/",
        r"^persistence_location .*$": f"persistence_location {directory}/",
        r"^log_dest .*$": f"log_dest file {log}",
    }.items():
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert count, f"mosquitto.conf has no {pattern}"
    # Started by root it would become another user, who cannot read the test's directory.
    (directory / "mosquitto.conf").write_text(f"{text}user {getpass.getuser()}\nlog_type information\n")
    log.touch()
    process = subprocess.Popen([executable, "-c", directory / "mosquitto.conf"], stdout=2)  # both to stderr
    broker = Broker(port, process, log)
    try:
        _wait(lambda: _listens(port), "listen", broker)
        yield broker
    finally:
        process.terminate()
        process.wait(10)
