"""The provider as a process: settings and lifecycle."""

from __future__ import annotations

import random
import sys

from onceproof.postgres import check, create_engine
from onceproof.service import Runtime, alongside, run_service, watch_database
from onceproof.service.asgi import serve
from onceproof_provider.app import create_app
from onceproof_provider.ledger import Ledger
from onceproof_provider.misbehaviour import Misbehaviour
from onceproof_provider.settings import ProviderSettings


async def run(runtime: Runtime[ProviderSettings]) -> None:
    """Serve charges until the runtime is told to stop."""
    settings = runtime.settings
    engine = create_engine(
        settings.database_url.get_secret_value(),
        application_name=settings.service_name,
        pool_size=settings.pool_size,
    )
    misbehaviour = Misbehaviour(
        latency_ms=settings.latency_ms,
        jitter_ms=settings.jitter_ms,
        fault_rate=settings.fault_rate,
        withhold_s=settings.withhold_s,
        stop=runtime.stop,
        rng=random.Random(settings.fault_seed),  # noqa: S311 - repeatable faults, not cryptography
    )
    try:
        await runtime.until_ready("database", lambda: check(engine, "provider"))
        async with alongside(watch_database(engine, runtime.health)):
            await serve(
                create_app(
                    Ledger(engine),
                    misbehaviour=misbehaviour,
                    max_body_bytes=settings.max_body_bytes,
                ),
                settings.http_host,
                settings.http_port,
                runtime.stop,
                settings.drain_timeout_s,
                on_bound=lambda _: runtime.started(),
            )
    finally:
        await engine.dispose()


def main() -> int:
    """Run the service; its exit code."""
    return run_service(ProviderSettings, run)


if __name__ == "__main__":
    sys.exit(main())
