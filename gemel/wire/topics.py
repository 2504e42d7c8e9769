"""Every topic, in one table. mosquitto/acl mirrors it, and a test compares the two.

    gemel/v1/<site>/<kind>/<asset>/...

Identity stands at a fixed depth, so that rights can name it. Learning spans sites: its site is the fleet's name.
Addresses of the chain never appear in twin topics.

    topic                                              writer        QoS  retained
    gemel/v1/<site>/twin/<asset>/state                 edge agent    1    yes   the whole twin, JSON
    gemel/v1/<site>/twin/<asset>/delta                 edge agent    0    no    what changed since the state before
    gemel/v1/<site>/twin/<asset>/schema                edge agent    1    yes   JSON Schema of state and delta
    gemel/v1/<site>/twin/<asset>/event                 edge agent    1    no    an alert was raised or cleared
    gemel/v1/<site>/twin/<asset>/backfill              edge agent    1    no    revisions from while the link was down
    gemel/v1/<site>/twin/<asset>/backfill/answer       registry      1    no    stored | refused(reason)
    gemel/v1/<site>/twin/<asset>/desired/set           operator      1    no    a value that the machine shall have
    gemel/v1/<site>/twin/<asset>/desired/answer/<user>  edge agent   1    no    accepted | refused(reason)
    gemel/v1/<site>/maintenance/<asset>/<order>        listener      1    yes   how far a maintenance order is, JSON
    gemel/v1/<site>/query/<user>/request               reader        1    no    a question to the twin registry
    gemel/v1/<site>/query/<user>/response              registry      1    no    its answer
    gemel/v1/<site>/agent/<name>/availability          edge agent    1    yes   online | offline (also its will)
    gemel/v1/<site>/agent/<name>/status                edge agent    1    yes   what it runs, and why
    gemel/v1/<fleet>/learning/<task>/context/<cust>    custodian     1    no    the round's public context, or its key
    gemel/v1/<fleet>/learning/<task>/invitation        coordinator   1    no    a round begins; expires
    gemel/v1/<fleet>/learning/<task>/commitment/<dev>  edge agent    1    no    signed header of a frame to come
    gemel/v1/<fleet>/learning/<task>/letter/<to>/<dev>  edge agent   1    no    an agent's key, for one custodian
    gemel/v1/<fleet>/learning/<task>/letter-receipt/<cust>/<to>  custodian  1  no  kept | refused(reason)
    gemel/v1/<fleet>/learning/<task>/roster            coordinator   1    no    the closed list of commitments
    gemel/v1/<fleet>/learning/<task>/receipt/<dev>     coordinator   1    no    accepted | refused(reason)
    gemel/v1/<fleet>/learning/<task>/aggregate         coordinator   1    no    which frames are in which sum
    gemel/v1/<fleet>/learning/<task>/key-total/<cust>  custodian     1    no    the total of a sum's keys, wrapped
    gemel/v1/<fleet>/learning/<task>/opened/<cust>     custodian     1    no    where the wrapped opened sum is
    gemel/v1/<fleet>/learning/<task>/candidate         coordinator   1    no    where wrapped M0 is (round 0)
    gemel/v1/<fleet>/learning/<task>/ballot/<val>      validator     1    no    a signed vote, to be handed in
    gemel/v1/<fleet>/learning/<task>/standing/<val>    validator     1    yes   what the chain says now
    gemel/v1/<fleet>/learning/<task>/electorate/<epoch>  listener    1    yes   who votes, signed by those before
    gemel/v1/<fleet>/learning/<task>/deployment        listener      1    yes   the approved model and its votes
    gemel/v1/<fleet>/learning/<task>/model             coordinator   1    no    where the wrapped model is
    gemel/v1/<fleet>/learning/<task>/installed/<dev>   edge agent    1    no    installed | refused(reason)
    gemel/v1/<fleet>/learning/<task>/health-alert/<dev>  edge agent  1    no    opens a maintenance order
    gemel/v1/<fleet>/learning/<task>/round-request/<dev>  edge agent  1    no    the machine has drifted: learn again
    gemel/v1/<fleet>/learning/<task>/round-answer/<dev>  coordinator  1    no    accepted | refused(reason)
    gemel/v1/<fleet>/learning/<task>/training-request/<to>/<dev>  edge agent  1  no  masked weights to refresh
    gemel/v1/<fleet>/learning/<task>/training-answer/<cust>/<to>  custodian  1  no  where they are | refused(reason)
    gemel/v1/<fleet>/learning/<task>/training/fetch/<to>/<cust>  custodian  1  no  «send me these chunks»
    gemel/v1/<fleet>/learning/<task>/training/chunk/<dev>/<digest>  edge agent  1  no  of masked weights
    gemel/v1/<fleet>/learning/<task>/fetch/<to>/<from> anybody       1    no    «send me these chunks»
    gemel/v1/<fleet>/learning/<task>/chunk/<from>/<digest>  anybody  1    no    chunks of an announced transfer

<dev>, <cust>, <val>, <to> and <from> are addresses; the broker lets each party write under its own only. <user> is
the name at the broker of whoever asks: a question's Response-Topic must lie under `desired/answer/`, or an agent
could be made to write anywhere that it has the right to.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from gemel.errors import ConfigError
from gemel.wire.types import Address, Digest

ROOT = "gemel/v1"
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
TopicLevel = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]  # in messages; as `name`


def name(text: str, what: str = "name") -> str:
    """`text` if it can be a topic level: 1 to 64 of a-z 0-9 . _ -, starting with a letter or digit."""
    if not _NAME.fullmatch(text):
        raise ConfigError(what, repr(text), "1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit")
    return text


def twin_state(site: str, asset: str) -> str:
    """The retained twin document of one asset."""
    return f"{ROOT}/{site}/twin/{asset}/state"


def twin_delta(site: str, asset: str) -> str:
    """What changed in the twin of one asset."""
    return f"{ROOT}/{site}/twin/{asset}/delta"


def twin_schema(site: str, asset: str) -> str:
    """The retained JSON Schema that state and delta of one asset follow."""
    return f"{ROOT}/{site}/twin/{asset}/schema"


def twin_event(site: str, asset: str) -> str:
    """Alerts of one asset, raised and cleared."""
    return f"{ROOT}/{site}/twin/{asset}/event"


def twin_backfill(site: str, asset: str) -> str:
    """Revisions of one asset's twin that could not be published when they arose."""
    return f"{ROOT}/{site}/twin/{asset}/backfill"


def backfill_answer(site: str, asset: str) -> str:
    """Registry → agent: what became of a backfill."""
    return f"{ROOT}/{site}/twin/{asset}/backfill/answer"


def desired_set(site: str, asset: str) -> str:
    """Operator → agent: what one asset shall be."""
    return f"{ROOT}/{site}/twin/{asset}/desired/set"


def desired_answer(site: str, asset: str, user: str = "+") -> str:
    """Agent → the operator that asked; `+` is the filter over all of them."""
    return f"{ROOT}/{site}/twin/{asset}/desired/answer/{user}"


def maintenance_order(site: str, asset: str, order: Digest = "+") -> str:
    """Chain listener → all at the site: how far an order of one asset is; `+` is the filter over all of them."""
    return f"{ROOT}/{site}/maintenance/{asset}/{order}"


def agent(site: str, agent_name: str, leaf: str) -> str:
    """`availability` or `status` of one agent."""
    return f"{ROOT}/{site}/agent/{agent_name}/{leaf}"


def query_request(site: str, user: str) -> str:
    """Dashboard or operator → registry: a question about the site's twins."""
    return f"{ROOT}/{site}/query/{user}/request"


def query_response(site: str, user: str) -> str:
    """Registry → whoever asked."""
    return f"{ROOT}/{site}/query/{user}/response"


ALL_TWINS = f"{ROOT}/+/twin/+/state"
ALL_BACKFILL = f"{ROOT}/+/twin/+/backfill"
ALL_ORDERS = f"{ROOT}/+/maintenance/+/+"
ALL_TWIN_EVENTS = f"{ROOT}/+/twin/+/event"
ALL_QUERIES = f"{ROOT}/+/query/+/request"
ALL_AGENT_STATUS = f"{ROOT}/+/agent/+/status"
ALL_AVAILABILITY = f"{ROOT}/+/agent/+/availability"


class Learning:
    """The topics of one learning task of one fleet."""

    __slots__ = ("_base", "_names")

    def __init__(self, fleet: str, task: str, *, branch: str = "") -> None:
        self._names = fleet, task
        self._base = f"{ROOT}/{name(fleet, 'fleet')}/learning/{name(task, 'task')}{branch}"

    def context(self, custodian: Address = "+") -> str:
        """Custodian → all; `+` is the filter over all custodians."""
        return f"{self._base}/context/{custodian}"

    @property
    def invitation(self) -> str:
        """Coordinator → agents."""
        return f"{self._base}/invitation"

    @property
    def roster(self) -> str:
        """Coordinator → agents and validators."""
        return f"{self._base}/roster"

    @property
    def aggregate(self) -> str:
        """Coordinator → validators and custodian."""
        return f"{self._base}/aggregate"

    def letter(self, custodian: Address, device: Address = "+") -> str:
        """Agent → one custodian."""
        return f"{self._base}/letter/{custodian}/{device}"

    def letter_receipt(self, custodian: Address = "+", device: Address = "+") -> str:
        """Custodian → the agent whose letter it has, and the coordinator."""
        return f"{self._base}/letter-receipt/{custodian}/{device}"

    def training_request(self, custodian: Address, device: Address = "+") -> str:
        """Agent → custodian."""
        return f"{self._base}/training-request/{custodian}/{device}"

    def training_answer(self, custodian: Address = "+", device: Address = "+") -> str:
        """Custodian → the agent that asked."""
        return f"{self._base}/training-answer/{custodian}/{device}"

    def training(self) -> Learning:
        """Where agents' transfers are for the custodian: masked weights, and never a frame. Only for Transfers."""
        return Learning(*self._names, branch="/training")

    def key_total(self, custodian: Address = "+") -> str:
        """Custodian → custodians and collectors."""
        return f"{self._base}/key-total/{custodian}"

    def opened(self, custodian: Address = "+") -> str:
        """Custodian → collectors."""
        return f"{self._base}/opened/{custodian}"

    @property
    def candidate(self) -> str:
        """Coordinator → validators."""
        return f"{self._base}/candidate"

    def ballot(self, validator: Address = "+") -> str:
        """Validator → coordinator; `+` is the filter over all validators."""
        return f"{self._base}/ballot/{validator}"

    def standing(self, validator: Address = "+") -> str:
        """Validator → all; retained."""
        return f"{self._base}/standing/{validator}"

    def electorate(self, epoch: int | str = "+") -> str:
        """Chain listener → all; retained, one for each epoch."""
        return f"{self._base}/electorate/{epoch}"

    def health_alert(self, device: Address = "+") -> str:
        """Agent → chain listener."""
        return f"{self._base}/health-alert/{device}"

    @property
    def deployment(self) -> str:
        """Chain listener → all; retained."""
        return f"{self._base}/deployment"

    @property
    def model(self) -> str:
        """Coordinator → agents and validators."""
        return f"{self._base}/model"

    def commitment(self, device: Address = "+") -> str:
        """Agent → collectors; `+` is the filter over all devices."""
        return f"{self._base}/commitment/{device}"

    def receipt(self, device: Address = "+") -> str:
        """Coordinator → one agent."""
        return f"{self._base}/receipt/{device}"

    def installed(self, device: Address = "+") -> str:
        """Agent → chain listener and coordinator."""
        return f"{self._base}/installed/{device}"

    def round_request(self, device: Address = "+") -> str:
        """Agent → coordinator."""
        return f"{self._base}/round-request/{device}"

    def round_answer(self, device: Address = "+") -> str:
        """Coordinator → one agent."""
        return f"{self._base}/round-answer/{device}"

    def fetch(self, to: Address, sender: Address = "+") -> str:
        """Anybody → the holder of a transfer."""
        return f"{self._base}/fetch/{to}/{sender}"

    def chunk(self, holder: Address, transfer: Digest) -> str:
        """The holder of a transfer → whoever asked."""
        return f"{self._base}/chunk/{holder}/{transfer}"
