"""The custodian's secrets on disk, one a round, of mode 0600: written before anybody hears of them, then erased."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemel.adapters.secret_files import create_private, erase, read_private, sync_folder

KEY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RoundSecrets:
    """`<directory>/round-<number>.key` (gemel.sealing.stored_key). Methods block on the disk."""

    directory: Path

    def path(self, number: int) -> Path:
        """Where a round's secret is, or would be."""
        return self.directory / f"round-{number:06d}.key"

    def read(self, number: int) -> bytes | None:
        """The round's secret, if it has been written."""
        path = self.path(number)
        return read_private(path, "sealing key", KEY_BYTES) if path.exists() else None

    def write(self, number: int, secret: bytes) -> None:
        """Whole or not at all: half a key, left by a crash, would be no key and yet be taken for one."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = self.path(number).with_suffix(".new")
        erase(scratch)
        create_private(scratch, secret, "sealing key")
        scratch.rename(self.path(number))
        sync_folder(self.directory)

    def erase(self, number: int) -> None:
        """Overwrite and remove."""
        erase(self.path(number))

    def erase_before(self, number: int) -> None:
        """Secrets of rounds that ended while this process was away, and what a crash left of making one."""
        for path in sorted(self.directory.glob("round-*")):
            if path.stem < self.path(number).stem:
                erase(path)
