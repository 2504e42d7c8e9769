"""Run the embedded chain until SIGTERM or SIGINT. Prints `ready http://127.0.0.1:PORT` once it answers."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from pathlib import Path

from gemel.embedded.chain.server import serving
from gemel.errors import ConfigError


def _addresses(text: str) -> list[bytes]:
    parts = [part for part in text.split(",") if part]
    for part in parts:
        if not re.fullmatch(r"0x[0-9a-fA-F]{40}", part):
            raise argparse.ArgumentTypeError(f"{part!r} is no address")
    return [bytes.fromhex(part[2:]) for part in parts]


async def _run(arguments: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serving(
        arguments.db, port=arguments.port, chain_id=arguments.chain_id, funded=arguments.alloc
    ) as port:
        print(f"ready http://127.0.0.1:{port}", flush=True)
        await ended.wait()


def main() -> int:
    """Exit status 0 after a signal, 1 with one line on stderr if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m gemel.embedded.chain", description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="the chain's file; founded if it is not there")
    parser.add_argument("--port", type=int, default=8545, help="on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--chain-id", type=int, default=31337)
    parser.add_argument("--alloc", type=_addresses, default=[], help="addresses to fund at genesis, comma-separated")
    try:
        asyncio.run(_run(parser.parse_args()))
    except (ConfigError, OSError) as error:
        print(f"embedded chain: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
