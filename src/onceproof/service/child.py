"""A program that this process starts and that must not outlive it."""

from __future__ import annotations

from typing import Final

_WITH_PARENT: Final = """
exec 3<&0
"$@" < /dev/null & child=$!
(cat <&3 > /dev/null; kill -9 $child 2>/dev/null) &
wait $child
"""


def with_parent(*command: str) -> list[str]:
    """The command, under a shell that kills it when its stdin ends.

    Give it a pipe for stdin: the kernel closes that however this process ends.
    """
    return ["sh", "-c", _WITH_PARENT, "sh", *command]
