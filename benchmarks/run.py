"""`make bench`: the pipeline without faults, as a ratio to `pgbench` running the same SQL."""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a script, so the folder above is not on the path yet.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cli import main

if __name__ == "__main__":
    main()
