"""Configuration by environment, validated at start, printable without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from onceproof.crashpoints import Armed
from onceproof.errors import ConfigurationError
from onceproof.postgres import normalise_url
from onceproof.variants import Fixes, parse_variant

_HIDDEN: Final = "hidden"
_SECRET: Final = re.compile("pass|secret|token|key|auth", re.IGNORECASE)


class ServiceSettings(BaseSettings):
    """What every service is told from outside: `ONCEPROOF_<FIELD>`. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ONCEPROOF_", frozen=True, extra="ignore")

    service_name: str = "onceproof"
    database_url: SecretStr
    """`postgresql://user:password@host:5432/name`."""
    admin_host: str = "0.0.0.0"
    admin_port: int = Field(default=9000, ge=0, le=65535)
    """Health, metrics and crash points; 0 picks a free port and logs it."""
    chaos_enabled: bool = False
    """Serve `/crash-points`. Never in production."""
    crash_points: list[dict[str, Any]] = []
    """Crash points armed from the start, as JSON; needs `chaos_enabled`."""
    variant: str = "hardened"
    """`naive`, `hardened` or `hardened-<fix>`."""
    spans_file: Path | None = None
    """Append spans as JSON lines to this file."""
    otlp_endpoint: str | None = None
    """Send spans to this OTLP/HTTP endpoint, e.g. `http://collector:4318`."""
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    schema_wait_s: float = Field(default=0.0, ge=0)
    """For somebody else to migrate the database or to make the queue; 0 refuses to start at once."""
    drain_timeout_s: float = Field(default=15.0, ge=0)
    """For work in progress after SIGTERM; the pod's grace period must be at least 15 s longer."""

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        try:
            normalise_url(value.get_secret_value())
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("variant")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            parse_variant(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def fixes(self) -> Fixes:
        """Which fixes the variant has on."""
        return parse_variant(self.variant)

    @property
    def armed(self) -> list[Armed]:
        """The crash points to arm at start.

        Raises:
            ConfigurationError: one is malformed, or chaos is off.
        """
        if self.crash_points and not self.chaos_enabled:
            raise ConfigurationError(
                "ONCEPROOF_CRASH_POINTS is set while chaos is off; set ONCEPROOF_CHAOS_ENABLED=true "
                "in a test environment, or unset it"
            )
        try:
            return [Armed.from_json(document) for document in self.crash_points]
        except ValueError as error:
            raise ConfigurationError(f"ONCEPROOF_CRASH_POINTS: {error}") from None

    def printable(self) -> dict[str, Any]:
        """All settings as JSON types, without the password of any URL."""
        document = self.model_dump(mode="json")
        document["database_url"] = _without_secrets(self.database_url.get_secret_value())
        for name, value in document.items():
            if isinstance(value, str) and "://" in value:
                document[name] = _without_secrets(value)
        return document


def _without_secrets(value: str) -> str:
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        return _HIDDEN
    hidden = dict.fromkeys((name for name in url.query if _SECRET.search(name)), _HIDDEN)
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def explain(error: ValidationError) -> str:
    """A validation error in the terms of who set the environment; repeats no value."""
    lines = [
        f"  ONCEPROOF_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    ]
    return "the configuration is not valid:\n" + "\n".join(lines)
