"""A twin as an Asset Administration Shell (IDTA metamodel 3), for plants that run one. Needs the `aas` extra.

One shell with two submodels: `Readings`, a collection for each property with value, unit, quality and source time,
and `Health`, one for each component with condition, confidence, quality and source time. A shell's idShorts allow
letters, digits and underscores only; the plant's own name stands as the display name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gemel.errors import ConfigError
from gemel.twin.state import Diagnosis, Property, Twin

if TYPE_CHECKING:
    from basyx.aas import model as aas


def to_json(twin: Twin) -> bytes:
    """The shell and its submodels as an AAS JSON environment. Raises ConfigError where the extra is not installed."""
    try:
        from basyx.aas import model  # noqa: PLC0415  an extra
        from basyx.aas.adapter.json import object_store_to_json  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("aas", "basyx-python-sdk", "installed: pip install 'gemel[aas]'") from error
    return object_store_to_json(_environment(model, twin), indent=2).encode() + b"\n"


def _environment(model: Any, twin: Twin) -> Any:
    """`model` is the SDK's, loaded only when a shell is wanted."""
    name = f"urn:gemel:twin:{twin.site}:{twin.asset}"

    def submodel(title: str, elements: Iterable[aas.SubmodelElement]) -> aas.Submodel:
        made: aas.Submodel = model.Submodel(f"{name}:{title.lower()}", elements, id_short=title)
        return made

    submodels = [
        submodel("Readings", _collections(model, twin.properties, _reading)),
        submodel("Health", _collections(model, twin.health, _diagnosis)),
    ]
    shell = model.AssetAdministrationShell(
        model.AssetInformation(global_asset_id=name),
        f"{name}:shell",
        id_short=id_short(twin.asset),
        submodel={model.ModelReference.from_referable(one) for one in submodels},
    )
    return model.DictIdentifiableStore([shell, *submodels])


def id_short(name: str) -> str:
    """A name in the letters that a shell allows; two names never become one."""
    plain = re.sub(r"^[0-9]|[^A-Za-z0-9]", lambda found: f"_{ord(found.group()):x}_", name)
    return plain if plain[0].isalpha() else f"n{plain}"


_Entry = Property | Diagnosis


def _collections(
    model: Any, entries: Mapping[str, Any], parts: Callable[[Any], dict[str, Any]]
) -> list[aas.SubmodelElement]:
    return [
        model.SubmodelElementCollection(
            id_short(name),
            [
                model.Property(key, float if value is None else type(value), value)
                for key, value in (parts(entry) | _common(entry)).items()
            ],
            display_name=model.MultiLanguageNameType({"en": name}),
        )
        for name, entry in entries.items()
    ]


def _common(entry: _Entry) -> dict[str, Any]:
    source_time = datetime.fromtimestamp(min(entry.source_time_ms, 253_402_300_799_000) / 1000, UTC)
    return {"quality": entry.quality.value, "sourceTime": source_time}


def _reading(reading: Property) -> dict[str, Any]:
    return {"value": reading.value, "unit": reading.unit}


def _diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    return {"condition": diagnosis.condition, "confidence": diagnosis.confidence}
