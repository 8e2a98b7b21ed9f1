"""The command line `onceproof`. Installed packages add commands under `onceproof.commands`."""

from onceproof.cli.app import main

__all__ = ["main"]
