"""Settings: from file and environment; one clear line when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemel.errors import ConfigError
from gemel.host.settings import ServiceSettings

CHAIN = '[chain]\nrpc_url = "http://127.0.0.1:8545"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "service.toml"


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        ServiceSettings.load(file)
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{file}: ")


def test_file_and_defaults(file: Path) -> None:
    file.write_text('state_dir = "/var/lib/x"\n[bus]\nurl = "mqtts://broker"\nca_file = "ca.pem"\n')
    settings = ServiceSettings.load(file)
    assert (settings.state_dir, settings.metrics_port, settings.chain) == (Path("/var/lib/x"), 0, None)
    bus = settings.bus.settings("agent-1")
    assert (bus.address, bus.client_id, bus.ca_file) == (("broker", 8883, True), "agent-1", Path("ca.pem"))


def test_environment_wins_over_the_file_key_by_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('state_dir = "a"\n[bus]\nurl = "mqtt://file:1"\nreceive_maximum = 7\n')
    monkeypatch.setenv("GEMEL_BUS__URL", "mqtt://environment:2")
    monkeypatch.setenv("GEMEL_METRICS_PORT", "9100")
    settings = ServiceSettings.load(file)
    assert (settings.bus.url, settings.bus.receive_maximum, settings.metrics_port) == (
        "mqtt://environment:2",
        7,
        9100,
    )


def test_overrides_stand_in_for_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceSettings.load(None, state_dir=Path("here")).state_dir == Path("here")


def test_unknown_key_names_the_nearest_known_one(file: Path) -> None:
    assert refusal(file, 'stat_dir = "a"') == "stat_dir: unknown key, did you mean state_dir?"
    assert refusal(file, 'state_dir = "a"\n[bus]\nulr = "x"') == "bus.ulr: unknown key, did you mean url?"
    assert refusal(file, f'state_dir = "a"\n{CHAIN}rpc = 1') == "chain.rpc: unknown key, did you mean rpc_url?"


def test_unknown_key_like_none_lists_what_is_known(file: Path) -> None:
    assert refusal(file, f'state_dir = "a"\n{CHAIN}zzzz = 1') == (
        "chain.zzzz: unknown key, known are file, rpc_url, ws_url, confirmations, max_fee_gwei, stuck_s"
    )


def test_missing_key_is_named(file: Path) -> None:
    assert refusal(file, "") == "state_dir: required, and missing"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metrics_port = 65536", "metrics_port: Input should be less than or equal to 65535, not '65536'"),
        ('log_format = "xml"', "log_format: Input should be 'console' or 'json', not 'xml'"),
        ("bus = {publish_deadline_s = nan}", "bus.publish_deadline_s: Input should be a finite number, not 'nan'"),
        ("bus = {receive_maximum = 0}", "bus.receive_maximum: Input should be greater than or equal to 1, not '0'"),
    ],
)
def test_wrong_value_says_what_is_allowed(file: Path, line: str, said: str) -> None:
    assert refusal(file, f'state_dir = "a"\n{line}\n') == said


def test_file_that_is_missing_or_no_toml_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"service\.toml: file: a readable file \(No such file"):
        ServiceSettings.load(file)
    assert refusal(file, "state_dir = ").startswith("file: valid TOML: ")


def test_bus_section_reads_its_password_and_refuses_a_url_that_is_none(file: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    file.write_text(f'state_dir = "a"\n[bus]\nusername = "x"\npassword_file = "{tmp_path}/password"\n')
    bus = ServiceSettings.load(file).bus.settings("x")
    assert bus.password == "secret"
    assert "secret" not in repr(bus)
    file.write_text('state_dir = "a"\n[bus]\nurl = "tcp://x"\n')
    with pytest.raises(ConfigError, match="bus: url"):
        ServiceSettings.load(file).bus.settings("x")
