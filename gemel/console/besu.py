"""The first block of a Besu QBFT network, and the change by which our Election seats its block producers.

    founding      extraData names the first validators by their node addresses
    afterwards    `transitions` tells every node from which block on to ask the Election's getValidators()

Written for Besu's pages "Configure QBFT consensus" and "Genesis file items"; deploy/besu/README.md says of which day.
Pure: documents in, documents out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import rlp

from gemel.errors import ConfigError
from gemel.wire.types import Address

FEWEST_VALIDATORS = 4  # of which one may fail or lie
MOST_CHAIN_ID = 2**53
VANITY = bytes(32)
BLOCK_GAS = 30_000_000  # a whole round takes at most 1.5 million; the dearest deployment about 5 million
QBFT_MIX_HASH = "0x63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365"  # Besu tells its blocks by it

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")


def extra_data(validators: Sequence[Address]) -> str:
    """RLP([32 bytes vanity, validators, no vote, round 0, no seals]); validators in rising order, like Besu."""
    addresses = sorted(bytes.fromhex(_address(each, "validators")[2:]) for each in validators)
    encoded: bytes = rlp.encode([VANITY, addresses, [], 0, []])
    return "0x" + encoded.hex()


def genesis(chain_id: int, validators: Sequence[Address], *, block_period_s: int = 2) -> dict[str, Any]:
    """A network's genesis.json: blocks every `block_period_s`, Cancun from the first block on, gas without a price.

    Raises ConfigError: fewer than four validators, one twice, no address, a chain id or period out of range.
    """
    if not 1 <= chain_id <= MOST_CHAIN_ID:
        raise ConfigError("genesis", "chain_id", f"1 to {MOST_CHAIN_ID}, not {chain_id}")
    if block_period_s < 1:
        raise ConfigError("genesis", "block_period_s", f"at least 1, not {block_period_s}")
    given = {each.lower() for each in validators}
    if len(given) < max(len(validators), FEWEST_VALIDATORS):
        raise ConfigError(
            "genesis", "validators", f"{FEWEST_VALIDATORS} at least, each once: with fewer none of them may fail"
        )
    return {
        "config": {
            "chainId": chain_id,
            "berlinBlock": 0,
            "londonBlock": 0,
            "shanghaiTime": 0,
            "cancunTime": 0,  # mcopy, which our bytecode uses
            "zeroBaseFee": True,
            "qbft": {
                "epochlength": 30_000,
                "blockperiodseconds": block_period_s,
                "requesttimeoutseconds": 2 * block_period_s,
            },
        },
        "nonce": "0x0",
        "timestamp": "0x0",
        "gasLimit": hex(BLOCK_GAS),
        "difficulty": "0x1",
        "mixHash": QBFT_MIX_HASH,
        "coinbase": "0x" + "00" * 20,
        "alloc": {},
        "extraData": extra_data(validators),
    }


def with_election(document: dict[str, Any], election: Address, block: int) -> dict[str, Any]:
    """The same genesis.json, by which from `block` on the Election says who makes blocks. Raises ConfigError.

    `block` must lie ahead of every node: a transition in the past makes them disagree about the chain.
    """
    config = document.get("config")
    if not isinstance(config, dict) or "qbft" not in config:
        raise ConfigError("genesis", "config.qbft", "the genesis.json of a QBFT network")
    if "transitions" in config:
        raise ConfigError("genesis", "config.transitions", "none yet; further ones are written by hand")
    if block < 1:
        raise ConfigError("genesis", "block", f"a block to come, not {block}")
    change = {
        "block": block,
        "validatorselectionmode": "contract",
        "validatorcontractaddress": _address(election, "election"),
    }
    return {**document, "config": {**config, "transitions": {"qbft": [change]}}}


def _address(text: str, key: str) -> Address:
    if not _ADDRESS.fullmatch(text.lower()):
        raise ConfigError("genesis", key, f"0x and 40 hex digits, not {text!r}")
    return text.lower()
