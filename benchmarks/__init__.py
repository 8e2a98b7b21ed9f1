"""The plain benchmark: throughput without faults, as a ratio to pgbench."""
