"""The units of deploy/systemd, verified offline by systemd-analyze (systemd itself need not run)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gemel.adapters import key_files
from gemel.errors import ConfigError
from gemel.host.settings import BusSection
from tests.support.parties import TRUST
from tests.support.plans import POLICY
from twin_registry.tokens import Tokens

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))
SHARED = UNITS / "gemel-.service.d" / "10-shared.conf"
MOST_EXPOSURE = 20  # tenths; systemd-analyze exits 1 above it
STANDING_ALONE = "edge-agent@.service"


@pytest.fixture(scope="module")
def analyze() -> str:
    executable = shutil.which("systemd-analyze")
    if executable is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return executable


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are, but for /opt/gemel, which stands in a temporary folder and holds empty programs."""
    units = tmp_path / "units"
    shutil.copytree(UNITS, units)
    programs = tmp_path / "opt" / "bin"
    programs.mkdir(parents=True)
    for name in ("edge-agent", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for unit in units.glob("*.service"):
        text = unit.read_text()
        assert "/opt/gemel/bin/" in text
        unit.write_text(text.replace("/opt/gemel/", f"{programs.parent}/"))
    return units


def verify(analyze: str, unit: Path) -> str:
    """What systemd has to say against `unit`; it exits 0 on unknown keys, so only silence counts."""
    return subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False).stderr


def settings(path: Path) -> dict[str, list[str]]:
    """The lines below [Service], by key, in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_every_service_has_a_unit() -> None:
    services = {"edge-agent@", "gemel-coordinator", "gemel-custodian", "gemel-validator@"}
    services |= {"gemel-chain-listener", "gemel-twin-registry"}
    assert {name.removesuffix(".service") for name in NAMES} == services


@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_say_against_the_unit(analyze: str, installed: Path, name: str) -> None:
    assert verify(analyze, installed / name) == ""


def test_unknown_key_in_a_unit_would_be_found(analyze: str, installed: Path) -> None:
    unit = installed / STANDING_ALONE
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in verify(analyze, unit)


@pytest.mark.parametrize("name", NAMES)
def test_exposure_of_the_unit_is_at_most_two(analyze: str, installed: Path, name: str) -> None:
    command = [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", installed / name]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout + rated.stderr


def test_edge_agent_is_as_hardened_as_the_plants_services() -> None:
    alone, shared = settings(UNITS / STANDING_ALONE), settings(SHARED)
    assert {key: alone.get(key) for key in shared} == shared


@pytest.mark.parametrize("name", NAMES)
def test_unit_bounds_memory_and_takes_keys_as_credentials(name: str) -> None:
    unit = settings(UNITS / name)
    assert "MemoryMax" in unit
    assert "LoadCredential" in unit
    assert ".key" not in "".join(unit["ExecStart"])


# --- what the units start, for real -----------------------------------------------------------------

PROGRAMS = {"/opt/gemel/bin/python": [], "/opt/gemel/bin/edge-agent": ["-m", "edge_agent"]}
INSTANCE = "NAME"  # what %i becomes; the folder of the same name in deploy/systemd/etc


def start(name: str, root: Path) -> subprocess.CompletedProcess[str]:
    """The unit's ExecStart with its credentials, on a machine whose /etc and /var lie in `root`."""
    unit = settings(UNITS / name)
    (line,) = unit["ExecStart"]
    program, *arguments = shlex.split(line.replace("%i", INSTANCE).replace("/etc/", f"{root}/etc/"))
    return subprocess.run(
        [sys.executable, *PROGRAMS[program], *arguments],
        cwd=root,  # systemd starts in /: nothing may hang on where we are
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "CREDENTIALS_DIRECTORY": str(root / "credentials")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def install(name: str, root: Path) -> dict[str, Path]:
    """/etc/gemel as deploy/systemd/etc has it, and the unit's credentials; returns these by their names."""
    etc = root / "etc" / "gemel"
    shutil.copytree(UNITS / "etc", etc)
    for file in etc.rglob("*.toml"):
        file.write_text(file.read_text().replace("/etc/", f"{root}/etc/").replace("/var/", f"{root}/var/"))
    (etc / "trust.json").write_bytes(msgspec.json.encode(TRUST))
    (etc / "policy.json").write_bytes(msgspec.json.encode(POLICY))
    (etc / "ca.pem").write_text("not a certificate")
    (root / "credentials").mkdir()
    credentials = {}
    for credential in settings(UNITS / name)["LoadCredential"]:
        credential_name, _, source = credential.partition(":")
        assert Path(source).name == credential_name  # by this name the service looks for it
        assert Path(source).parent == Path("/etc/gemel", *_folder(name))
        credentials[credential_name] = root / "credentials" / credential_name
    if "key.json" in credentials:
        key_files.create(credentials["key.json"])
    if "tokens.toml" in credentials:
        credentials["tokens.toml"].write_text("")  # nobody has a token yet
        credentials["tokens.toml"].chmod(0o600)
    for tls in ("tls.pem", "tls.key"):
        credentials[tls].write_text("not PEM")
    return credentials


def _folder(name: str) -> tuple[str, ...]:
    """Below /etc/gemel, where a unit's files lie."""
    service = name.removesuffix(".service").removeprefix("gemel-")
    return (service.rstrip("@"), "%i") if service.endswith("@") else (service,)


@pytest.mark.parametrize("name", NAMES)
def test_unit_starts_its_service_which_misses_its_configuration_where_the_unit_says(
    name: str, tmp_path: Path
) -> None:
    ended = start(name, tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert f"{tmp_path}/etc/gemel/" in ended.stderr
    assert "a readable file" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_service_takes_the_example_configuration_and_its_keys_from_the_units_credentials(
    name: str, tmp_path: Path
) -> None:
    credentials = install(name, tmp_path)
    ended = start(name, tmp_path)
    # The first thing wrong is the TLS that we broke on purpose: what is read before it was found and right.
    assert ended.returncode == 2, ended.stderr
    assert "bus: ca_file, cert_file, key_file: readable PEM files" in ended.stderr
    assert f"{credentials['tls.pem']}, {credentials['tls.key']}" in ended.stderr
    (state,) = settings(UNITS / name)["StateDirectory"]
    assert (tmp_path / "var" / "lib" / state.replace("%i", INSTANCE)).is_dir()


def test_registry_takes_its_tokens_from_the_units_credentials(tmp_path: Path) -> None:
    credentials = install("gemel-twin-registry.service", tmp_path)
    credentials["tokens.toml"].write_text("token = 3")
    ended = start("gemel-twin-registry.service", tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert f"{credentials['tokens.toml']}: token: [[token]] with name, sha256 and scopes" in ended.stderr


def test_credential_that_an_acl_opens_for_the_service_is_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, key, password = (tmp_path / name for name in ("tokens.toml", "key.json", "password"))
    tokens.touch()
    made = key_files.create(key)
    password.write_text("xyzzy")
    section = BusSection(url="mqtt://localhost", password_file=password)
    files = (tokens, key, password)

    def load_all() -> None:
        Tokens.load(tokens)
        assert key_files.load(key).identity.address == made.identity.address
        assert section.settings("me").password == "xyzzy"

    for file in files:
        file.chmod(0o440)  # the mask of systemd's ACL shows as the group's bits
    for load in (lambda: Tokens.load(tokens), lambda: key_files.load(key), lambda: section.settings("me")):
        with pytest.raises(ConfigError, match="chmod 600"):
            load()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    load_all()
    for file in files:
        file.chmod(0o400)
    load_all()
    for file in files:
        file.chmod(0o444)
    for load in (lambda: Tokens.load(tokens), lambda: key_files.load(key), lambda: section.settings("me")):
        with pytest.raises(ConfigError, match="chmod 600"):
            load()
