"""Where the chain listener finds the registry, and what of it is refused at the start."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import ValidationError

from chain_listener.__main__ import ListenerSettings, RegistrySection, anchored_logs
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ConfigError
from gemel.exchange.deployment_log import DeploymentLog
from gemel.wire.logs import ACCESS_LOG, DEPLOYMENT_LOG
from tests.support.certificates import PlantCA

REQUIRED = {
    "state_dir": "/var/lib/x",
    "trust_file": "trust.json",
    "key_file": "key.json",
    "policy_file": "policy.json",
    "chain": {"file": "chain.json"},
}


async def test_logs_are_our_own_and_the_registrys_where_it_is_named(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        entries = await DeploymentLog.load("condition", records, FakeClock(), anchored=0)
        alone = anchored_logs(ListenerSettings.load(**REQUIRED), entries)
        both = anchored_logs(ListenerSettings.load(**REQUIRED, registry={"url": "http://127.0.0.1:9600"}), entries)
    assert [log.name for log in alone] == [DEPLOYMENT_LOG]
    assert [log.name for log in both] == [DEPLOYMENT_LOG, ACCESS_LOG]


def test_registry_is_asked_with_the_files_token_under_the_plants_authority(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    plant = PlantCA(tmp_path)
    section = RegistrySection(url="https://registry:9600/", token_file=token, ca_file=plant.directory / "ca.pem")
    log = section.log()
    assert (log.url, log.token) == ("https://registry:9600", "secret")
    assert log.tls is not None
    assert log.tls.verify_mode is ssl.CERT_REQUIRED
    assert log.tls.check_hostname


def test_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="token"):
        RegistrySection(url="http://registry:9600", token_file=token).log()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authority_that_is_none_is_one_line(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(ConfigError, match="registry: ca_file: certificates that can be read"):
        RegistrySection(url="https://registry:9600", ca_file=ca_file).log()


@pytest.mark.parametrize("url", ["", "registry:9600", "ftp://registry", "file:///etc/passwd"])
def test_registry_without_an_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        RegistrySection(url=url)


@pytest.mark.parametrize("changed", [{"anchor_interval_s": 0}, {"anchor_entries": 0}, {"anchor_entries": 10**6}])
def test_anchors_that_would_never_or_always_come_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="anchor_"):
        ListenerSettings.load(**REQUIRED, **changed)
