"""Waits until each database of the environment accepts connections.

Without it a Postgres that is still starting would use up the attempts of the migrations.
"""
# ruff: noqa: INP001 - runs as `python -c`

import os
import socket
import sys
import time
from urllib.parse import urlsplit

deadline = time.monotonic() + float(os.environ["WAIT_S"])
for variable in ("ONCEPROOF_DATABASE_URL", "ONCEPROOF_PROVIDER_DATABASE_URL"):
    url = urlsplit(os.environ[variable])
    host, port = url.hostname or "localhost", url.port or 5432
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{variable}: {host}:{port} cannot be reached: {error}")
            time.sleep(0.5)
