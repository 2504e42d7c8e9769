"""A throw-away PostgreSQL 15 on a unix socket, for tests: no network, gone afterwards."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

_PLACES = ":".join(["/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/17/bin"])


def need_postgres() -> Path:
    """The folder of initdb and pg_ctl. Without it the test is skipped, and fails under CI=true."""
    found = shutil.which("initdb", path=_PLACES + ":" + os.environ.get("PATH", ""))
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is required under CI=true")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return Path(found).parent


@contextmanager
def postgres() -> Iterator[str]:
    """Yields the url of an empty database. The server refuses root, so root starts it as the user `postgres`."""
    programs, root = need_postgres(), getpass.getuser() == "root"

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        if root:
            command = ["su", "postgres", "-s", "/bin/sh", "-c", shlex.join(command)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    with TemporaryDirectory(prefix="gemel-pg-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        if root:
            shutil.chown(folder, "postgres")
            shutil.chown(data, "postgres")
        run("initdb", "-D", str(data), "-U", "gemel", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c shared_buffers=16MB"
        run("pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://gemel@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
