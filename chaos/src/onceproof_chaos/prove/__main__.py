"""The consumer process: `python -m onceproof_chaos.prove`, with its configuration in the environment.

A module of its own, because the process is forked from one that has imported `service` already, and
Python warns of running a module that is imported.
"""

import sys

from onceproof_chaos.prove.service import main

if __name__ == "__main__":
    sys.exit(main())
