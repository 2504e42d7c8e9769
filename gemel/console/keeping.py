"""What `gemel keys` says and does beyond one file: sealing keys by round, and new keys against the chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gemel.adapters.evm_chain import EvmChain
from gemel.adapters.key_files import Keys
from gemel.adapters.secret_files import read_private
from gemel.console.fleet_files import KEYS_FOLDER, read_place, sealing_key_files
from gemel.errors import ConfigError, Malformed
from gemel.ports import PartyRecord, Role
from gemel.sealing.stored_key import StoredKey
from gemel.wire.identity import Identity
from gemel.wire.registration import prove_possession

_MOST_BYTES = 64 << 20


def sealing_keys(state_dir: Path) -> Iterator[str]:
    """A line for each sealing key that a custodian holds: its round and its fingerprint, and nothing secret.

    Raises ConfigError for a file that others can read, or a directory that cannot be looked into.
    """
    if not (state_dir / KEYS_FOLDER).is_dir():
        raise ConfigError(
            str(state_dir), "directory", "a key file, or a custodian's state directory (with keys/ in it)"
        )
    for path in sealing_key_files(state_dir):
        round_ = int(path.stem.removeprefix("round-"))
        try:
            key = StoredKey.parse(read_private(path, "sealing key", _MOST_BYTES))
        except Malformed as error:
            yield f"round {round_}: {error}"
        else:
            yield f"round {round_}: {key.policy.scheme}, {key.parameters} parameters, fingerprint {key.fingerprint}"


async def register_next(directory: Path, operator: Keys, former: Keys, following: Keys) -> PartyRecord:
    """Enter the new keys on the fleet's chain in the former ones' role and for their owner; once is enough.

    `directory` is a founded fleet's: its chain.json names the node. Raises ConfigError (no such fleet, former keys
    that are not registered), ChainReverted (not the operator's key), ChainUnavailable.
    """
    async with _chain(directory, operator.identity) as chain:
        before = await chain.party(former.identity.address)
        if before.role == Role.NONE:
            raise ConfigError(str(directory), former.identity.address, "a registered party of this fleet")
        address = following.identity.address
        if (await chain.party(address)).role == Role.NONE:
            record = PartyRecord(address, before.owner, before.role, following.box, active=True)
            devices = chain.calls.place.devices
            proof = prove_possession(
                following.identity, devices, owner=record.owner, role=record.role, box=record.box
            )
            await chain.register(record, proof)
        return await chain.party(address)


async def check_registered(directory: Path, former: Keys, following: Keys) -> PartyRecord:
    """What the chain says of the new keys; reads only. Raises ConfigError unless they stand in the former ones' role.

    Raises ChainUnavailable.
    """
    async with _chain(directory, None) as chain:
        before, now = [await chain.party(keys.identity.address) for keys in (former, following)]
    if now.role == Role.NONE or not now.active:
        raise ConfigError(str(directory), now.address, "registered on chain first (gemel keys rotate says how)")
    if (now.role, now.owner, now.box) != (before.role, before.owner, following.box):
        wanted = f"role {before.role.name.lower()}, owner {before.owner}, box {following.box}"
        raise ConfigError(str(directory), now.address, f"registered with {wanted}")
    return now


async def suspend(directory: Path, operator: Keys, former: Keys) -> None:
    """From now on the chain counts these keys no more; again changes nothing. Raises as `register_next`."""
    async with _chain(directory, operator.identity) as chain:
        if (await chain.party(former.identity.address)).active:
            await chain.suspend(former.identity.address)


def _chain(directory: Path, signer: Identity | None) -> EvmChain:
    return EvmChain(read_place(directory), signer)
