"""What lies in the audited directory, and reading it.

    trust.json, policy.json, chain.json        written at founding (gemel.console.founding)
    chain-export.json                          gemel.adapters.chain_export
    coordinator/rounds/<number>/...            gemel.exchange.round_folder
    <service>/blobs/<ab>/<digest>              models (gemel.adapters.file_blobs); the coordinator has them all
    agents/<name>/.../<digest>                 models in use, where they are kept; with or without .safetensors
    custodian/keys/                            what must not be there: a sealing key beside the frames it opens

Frames and models are read one at a time: there may be many, and large ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gemel.adapters.chain_export import ChainExport, decode_export
from gemel.adapters.chain_place import ChainPlace
from gemel.console.fleet_files import (
    EXPORT_FILE,
    POLICY_FILE,
    read,
    read_place,
    read_policy,
    read_trust,
    sealing_key_files,
)
from gemel.errors import ConfigError, Malformed
from gemel.exchange.round_folder import RoundFolder
from gemel.wire.messages import Policy
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Digest

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A kept fleet. Methods return None for what is not there, and raise ConfigError for what cannot be read."""

    directory: Path
    trust: Trust
    policy: Policy
    policy_bytes: bytes
    place: ChainPlace
    export: ChainExport
    export_bytes: bytes

    @property
    def policy_path(self) -> Path:
        """Where the policy is."""
        return self.directory / POLICY_FILE

    def part_path(self, number: int, part: str) -> Path:
        """Where a part of a round is, or would be."""
        return RoundFolder(self.directory / "coordinator", number).path / part

    def part(self, number: int, part: str) -> bytes | None:
        """A part of a round."""
        path = self.part_path(number, part)
        return read(path) if path.exists() else None

    def frames(self, number: int) -> tuple[Address, ...]:
        """Devices whose frames are kept, sorted: the order in which frames are added."""
        folder = RoundFolder(self.directory / "coordinator", number).frames
        names = (path.name for path in folder.iterdir() if path.suffix != ".new") if folder.is_dir() else ()
        return tuple(sorted(names))  # .new: a crash while it was written

    def blob_path(self, digest: Digest) -> Path:
        """Where a model is, or would be."""
        return self.directory / "coordinator" / "blobs" / digest[:2] / digest

    def blob(self, digest: Digest) -> bytes | None:
        """A model's bytes, whatever they hash to."""
        path = self.blob_path(digest)
        return read(path) if path.exists() else None

    def named_by_digest(self) -> Iterator[tuple[Digest, Path]]:
        """Every model that anybody keeps: files named by their digest."""
        for pattern in ("*/blobs/??/*", "agents/**/*"):
            for path in sorted(self.directory.glob(pattern)):
                if _DIGEST.fullmatch(path.stem) and path.is_file():
                    yield path.stem, path

    def sealing_keys(self) -> list[Path]:
        """Sealing keys that were kept."""
        return sealing_key_files(self.directory / "custodian")

    def name(self, path: Path) -> str:
        """A path as findings show it."""
        return path.relative_to(self.directory).as_posix()


def load_evidence(directory: Path) -> Evidence:
    """Raises ConfigError: no such directory, or one of the four files is missing or not of its form."""
    if not directory.is_dir():
        raise ConfigError(str(directory), "directory", "the kept state of a fleet (gemel demo --keep)")
    export_path = directory / EXPORT_FILE
    export_bytes = read(export_path)
    try:
        export = decode_export(export_bytes)
    except Malformed as error:
        raise ConfigError(str(export_path), error.what, error.detail) from error
    return Evidence(
        directory=directory,
        trust=read_trust(directory),
        policy=read_policy(directory),
        policy_bytes=read(directory / POLICY_FILE),
        place=read_place(directory),
        export=export,
        export_bytes=export_bytes,
    )
