"""The proving ground: workload, nemesis, checker and report."""
