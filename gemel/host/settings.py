"""Settings: a TOML file, the environment above it (GEMEL_STATE_DIR, GEMEL_BUS__URL), one clear line when wrong."""

from __future__ import annotations

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gemel.adapters import key_files
from gemel.adapters.chain_place import ChainPlace, read_chain_place
from gemel.adapters.mqtt_bus import BusSettings
from gemel.adapters.secret_files import read_private
from gemel.errors import ConfigError
from gemel.host.logs import LogFormat, LogLevel

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_PASSWORD_BYTES = 4096


class Section(BaseModel):
    """A table of the file. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BusSection(Section):
    """[bus]: how to reach the broker."""

    url: str = "mqtt://127.0.0.1:1883"
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 86_400
    receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 64
    publish_deadline_s: Seconds = 30.0
    max_payload_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 1024 * 1024

    def settings(self, client_id: str) -> BusSettings:
        """For the adapter, with secrets from systemd's credentials where they are there (key_files.find).

        Raises ConfigError for a password file that cannot be read or that others can read, or a url that is none.
        """
        password = None
        if self.password_file is not None:
            content = read_private(_secret(self.password_file), "bus: password_file", _PASSWORD_BYTES)
            try:
                password = content.decode().strip()
            except UnicodeDecodeError as error:
                raise ConfigError("bus", "password_file", f"a readable file ({error})") from error
        settings = BusSettings(
            url=self.url,
            client_id=client_id,
            username=self.username,
            password=password,
            ca_file=self.ca_file,
            cert_file=self.cert_file and _secret(self.cert_file),
            key_file=self.key_file and _secret(self.key_file),
            session_expiry_s=self.session_expiry_s,
            receive_maximum=self.receive_maximum,
            publish_deadline_s=self.publish_deadline_s,
            max_payload_bytes=self.max_payload_bytes,
        )
        _ = settings.address
        return settings


def _secret(path: Path) -> Path:
    return key_files.find(path, os.environ)


class ChainSection(Section):
    """[chain]: where the contracts are (chain.json, as `gemel found` wrote it), and which node to ask."""

    file: Path
    rpc_url: str | None = None  # this service's own node; None: the file's
    ws_url: str | None = None  # new blocks are told there; None: the rpc_url's own, "": asked for only
    confirmations: Annotated[int, Field(ge=0, le=1000)] = 0  # more where blocks may still be replaced
    max_fee_gwei: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 500.0  # for one gas
    stuck_s: Seconds = 20.0  # a transaction in no block after so long is replaced at a higher price

    def place(self) -> ChainPlace:
        """Raises ConfigError for a file that cannot be read or is none."""
        place = read_chain_place(self.file)
        return place if self.rpc_url is None else replace(place, rpc_url=self.rpc_url)


class Settings(BaseSettings):
    """Base of every service's settings. Environment variables win over the file; nesting is written `__`."""

    model_config = SettingsConfigDict(
        env_prefix="GEMEL_", env_nested_delimiter="__", extra="forbid", frozen=True, env_parse_none_str="none"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  pydantic-settings calls by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment above the file's values, and no other source."""
        return env_settings, init_settings

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> Self:
        """Read `file` (None: environment only). `overrides` (the command line) replace the file's top-level keys.

        Raises ConfigError naming the file, the key and what is allowed.
        """
        source, values = "environment", dict[str, Any]()
        if file is not None:
            source = str(file)
            try:
                values = tomllib.loads(file.read_text())
            except OSError as error:
                raise ConfigError(source, "file", f"a readable file ({error.strerror})") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ConfigError(source, "file", f"valid TOML: {error}") from error
        try:
            return cls(**{**values, **overrides})
        except ValidationError as error:
            raise _config_error(cls, source, error) from error


class ServiceSettings(Settings):
    """What every service has. Each service adds its own keys in a subclass."""

    state_dir: Path
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 0
    log_format: LogFormat = "console"
    log_level: LogLevel = "info"
    bus: BusSection = BusSection()
    chain: ChainSection | None = None
    trust_file: Path | None = None
    key_file: Path | None = None
    spool_bytes: Annotated[int, Field(ge=1 << 20)] = (
        4 << 30
    )  # of transfers on their way and on offer; more is refused


def _config_error(model: type[BaseModel], source: str, error: ValidationError) -> ConfigError:
    # a key that is not known explains one that is missing better than the other way round
    first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return ConfigError(source, key, f"unknown key, {hint}")
    if first["type"] == "missing":
        return ConfigError(source, key, "required, and missing")
    said = first["msg"].replace("\n", " ")
    return ConfigError(source, key, f"{said}, not {str(first['input'])[:80]!r}")


def _keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that are known in the table at `path`."""
    for part in path:
        inner = [kind for kind in _kinds(model.model_fields[part].annotation) if issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _kinds(annotation: Any) -> list[type]:
    """The classes in a type, through unions and optional."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(annotation) for kind in _kinds(member)]
    return [annotation] if isinstance(annotation, type) else []
