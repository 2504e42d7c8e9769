"""Keys and parties that several tests use: a fleet with three validators and agents in two sites."""

from __future__ import annotations

from pathlib import Path

from gemel.adapters.dynamic_security import security_file
from gemel.wire.boxes import box_key
from gemel.wire.electorate import Electorate, Member
from gemel.wire.entitlements import entitlements
from gemel.wire.identity import Identity
from gemel.wire.messages import Collector
from gemel.wire.rights import BusRole, Party, acl_text
from gemel.wire.trust import Trust

REGISTRY = "0x" + "ab" * 20


def identity(number: int) -> Identity:
    """A key that is the same in every run."""
    return Identity(number.to_bytes(32, "big"))


COORDINATOR, CUSTODIAN, LISTENER = (identity(n) for n in (1, 2, 3))
VALIDATORS = tuple(identity(n) for n in (11, 12, 13))
AGENTS = tuple(identity(n) for n in (21, 22))


def _collector(of: Identity, number: int) -> Collector:
    return Collector(of.address, box_key(number.to_bytes(32, "big")))


TRUST = Trust(
    fleet="hydraulics",
    task="condition",
    chain_id=1337,
    registry=REGISTRY,
    coordinator=_collector(COORDINATOR, 1),
    custodians=(_collector(CUSTODIAN, 2),),
    listener=LISTENER.address,
    electorate=Electorate(
        epoch=1,
        quorum_part=666_666,
        members=tuple(
            Member(v.address, box_key((11 + n).to_bytes(32, "big")), 100) for n, v in enumerate(VALIDATORS)
        ),
    ),
)

PLANT = (
    Party(
        BusRole.AGENT,
        AGENTS[0].address,
        site="bonn",
        agent="gateway-1",
        assets=("rig-1", "rig-2"),
        readings=("plant/bonn/rig-1/#", "plant/bonn/rig-2/#"),
        commands=("commands/bonn/rig-1/#",),
    ),
    Party(
        BusRole.AGENT,
        AGENTS[1].address,
        site="lyon",
        agent="gateway-2",
        assets=("rig-3",),
        readings=("plant/lyon/+/readings",),
    ),
    Party(BusRole.REGISTRY, "twin-registry"),
    Party(BusRole.DASHBOARD, "wallboard", sites=("bonn",)),
    Party(BusRole.OPERATOR, "shift-1", sites=("bonn",)),
    Party(BusRole.SOURCE, "plc-7", readings=("plant/bonn/rig-1/#",), commands=("commands/bonn/rig-1/#",)),
)


WANTED = entitlements(TRUST, PLANT, shared={}, suspended=frozenset())


if __name__ == "__main__":  # writes the examples that stand in mosquitto/
    folder = Path(__file__).parents[2] / "mosquitto"
    (folder / "acl").write_text(acl_text(TRUST, PLANT))
    (folder / "dynamic-security.json").write_bytes(security_file(WANTED, TRUST.listener))
