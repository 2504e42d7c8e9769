"""Every file that a person hands to a service: whatever is in it, one line says what is wrong."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gemel.adapters import key_files
from gemel.console.fleet_files import read_place, read_policy, read_trust
from gemel.console.founding import load_plan
from gemel.errors import ConfigError
from gemel.host import party
from gemel.host.settings import BusSection, ServiceSettings
from gemel.learning.measuring import load_windows, save_windows
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import task
from gemel.wire.trust import load_trust


def reference() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=np.ones((4, 60, 8), np.float32), labels=np.zeros((4, 4), np.int64))
    return buffer.getvalue()


REFERENCE = reference()
NOT_UTF8 = {"no-text": b"\xff\xfe\x00", "text-in-latin-1": 'state_dir = "Prüfstand"\n'.encode("latin-1")}
CONTENTS = NOT_UTF8 | {
    "empty": b"",
    "zeros": bytes(100),
    "nested-too-deep": b"x = " + b"[" * 100_000,
    "objects-nested-too-deep": b'{"a":' * 100_000,
    "half-a-zip": REFERENCE[: len(REFERENCE) // 2],
    "zip-with-rotten-content": REFERENCE[:60] + bytes(20) + REFERENCE[80:],
    "half-an-npy": b"\x93NUMPY\x01\x00",
}
# reader → the file it reads, and how it is called on its folder
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "settings": ("service.toml", lambda folder: ServiceSettings.load(folder / "service.toml")),
    "plan": ("plan.toml", lambda folder: load_plan(folder / "plan.toml")),
    "keys": ("key.json", lambda folder: key_files.load(folder / "key.json")),
    "reference set": ("reference.npz", lambda folder: load_windows(folder / "reference.npz")),
    "pinned policy": ("policy.json", lambda folder: party.read_policy(folder / "policy.json", task)),
    "pinned trust": ("trust.json", lambda folder: load_trust((folder / "trust.json").read_bytes(), "trust.json")),
    "kept trust": ("trust.json", read_trust),
    "kept policy": ("policy.json", read_policy),
    "place": ("chain.json", read_place),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("reader", READERS)
def test_file_with_such_content_is_one_line(tmp_path: Path, reader: str, content: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.write_bytes(CONTENTS[content])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=name) as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", NOT_UTF8)
def test_password_file_that_is_no_text_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(CONTENTS[content])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="bus: password_file"):
        BusSection(password_file=path).settings("x")


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_password_file_open_to_others_is_refused_without_quoting_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"bus: password_file: readable by its owner only \(chmod 600\)") as refused:
        BusSection(password_file=path).settings("x")
    assert "hunter2" not in str(refused.value)


def test_reference_set_whose_readings_are_not_finite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    save_windows(path, Windows(np.ones((2, 60, 8), np.float32), np.zeros((2, 4), np.int64)))
    load_windows(path)
    np.savez_compressed(path, inputs=np.full((2, 60, 8), np.nan, np.float32), labels=np.zeros((2, 4), np.int64))
    with pytest.raises(ConfigError, match=r"reference\.npz.*not finite"):
        load_windows(path)
