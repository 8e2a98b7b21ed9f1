"""Makes the role with which Debezium reads the outbox: it may replicate and read that one table.

The pipeline's own role gets the right to make the replication slot, and to make a lost one anew. Safe to
repeat: each installation and upgrade does.
"""
# ruff: noqa: INP001 - runs as `python -c`

import asyncio
import os

import asyncpg
from sqlalchemy.engine import make_url


async def main() -> None:
    """All of it, as the superuser of the embedded Postgres."""
    reader = make_url(os.environ["ONCEPROOF_CDC_DATABASE_URL"])
    owner = make_url(os.environ["ONCEPROOF_DATABASE_URL"]).username
    admin = await asyncpg.connect(
        host=reader.host, port=reader.port or 5432, database=reader.database,
        user="postgres", password=os.environ["POSTGRES_PASSWORD"],
    )  # fmt: skip
    quoted = await admin.fetchrow(
        "SELECT quote_ident($1) AS reader, quote_literal($2) AS password, quote_ident($3) AS owner, "
        "quote_ident($4) AS database, EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS there",
        reader.username, os.environ["CDC_PASSWORD"], owner, reader.database,
    )  # fmt: skip
    role = quoted["reader"]
    statements = [
        *([] if quoted["there"] else [f"CREATE ROLE {role}"]),
        f"ALTER ROLE {role} LOGIN REPLICATION PASSWORD {quoted['password']}",
        f"GRANT CONNECT ON DATABASE {quoted['database']} TO {role}",
        f"GRANT USAGE ON SCHEMA onceproof TO {role}",
        f"GRANT SELECT ON onceproof.outbox TO {role}",
        f"ALTER ROLE {quoted['owner']} REPLICATION",
    ]
    async with admin.transaction():
        for statement in statements:
            await admin.execute(statement)
    await admin.close()


asyncio.run(main())
