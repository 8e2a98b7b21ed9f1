"""What importing the library costs, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

LIBRARY = "onceproof.consumer, onceproof.outbox, onceproof.inbox, onceproof.idempotency"


def loaded(statement):
    code = f"import sys; import {statement}; print(' '.join(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(output.stdout.split())


@pytest.mark.parametrize(
    "module", ["opentelemetry.sdk", "pydantic_settings", "aiobotocore", "moto"]
)
def test_the_library_needs_no_sdk_no_settings_and_no_broker(module):
    assert module not in loaded(LIBRARY)


def test_the_commands_need_no_settings_and_no_broker_until_they_send():
    assert not loaded("onceproof.cli.outbox") & {"pydantic_settings", "aiobotocore", "uvicorn"}


def test_a_service_does_not_load_what_only_migrations_and_tests_need():
    modules = loaded("onceproof_consumer.__main__")
    assert "opentelemetry.sdk" in modules  # the check can see it where it is
    assert not modules & {"alembic", "moto", "onceproof_chaos", "starlette", "typer"}
