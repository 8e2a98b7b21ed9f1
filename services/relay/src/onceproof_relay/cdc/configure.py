"""`python -m onceproof_relay.cdc.configure`: writes Debezium's configuration, then waits for its slot.

For the init container of a pod in which Debezium Server stands beside the relay: that ends where there
is no slot yet, and a container that ends is started later each time.
"""

from __future__ import annotations

import sys

from onceproof.outbox.slot import Slot
from onceproof.postgres import check, create_engine
from onceproof.service import Runtime, run_service
from onceproof_relay.cdc.server import write_configuration
from onceproof_relay.cdc.settings import CdcSettings
from onceproof_relay.cdc.watch import require_made


def main() -> int:
    """Do it; the exit code."""
    return run_service(own_settings, configure)


def own_settings() -> CdcSettings:
    """The relay's, without its admin port: who arms crash points there would arm this, which ends."""
    return CdcSettings(admin_host="127.0.0.1", admin_port=0, chaos_enabled=False, crash_points=[])


async def configure(runtime: Runtime[CdcSettings]) -> None:
    """Write it to `debezium_directory`, and wait for schema and slot."""
    settings = runtime.settings
    write_configuration(settings)
    engine = create_engine(
        settings.database_url.get_secret_value(), application_name="onceproof-relay", pool_size=1
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "onceproof"))
        await runtime.until_ready("slot", lambda: require_made(Slot(engine, settings.slot)))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
