"""Loads what the user brought, by import path, and says in plain words what is wrong with it."""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import reduce
from pathlib import Path
from typing import Any, Final

from onceproof.consumer import SqlEffect
from onceproof.errors import ConfigurationError
from onceproof_chaos.prove.points import Kind

_SHAPES: Final = {
    Kind.HANDLER: ("async def handle(session, delivery)", 2),
    Kind.BATCH: ("async def handle_batch(session, deliveries)", 2),
    Kind.LOOP: ("async def consume(runtime)", 1),
}


def load(import_path: str, folder: Path) -> Any:  # noqa: ANN401 - whatever it is called
    """The object `module:name`, with `folder` first among the places to import from.

    Raises:
        ConfigurationError: module or name do not exist, or importing it fails.
    """
    module, _, name = import_path.partition(":")
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{import_path} cannot be imported from {place}: {error}; --path names another folder"
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"{import_path} does not exist: {error}") from error
    # A script that calls `sys.exit(main())` when it is imported would end the proof as if all held.
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"importing {import_path} failed: {error!r}") from error


def load_target(import_path: str, folder: Path, kind: Kind) -> Any:  # noqa: ANN401 - as above
    """The handler, effect in SQL, or loop, checked for its shape.

    Raises:
        ConfigurationError: as `load`, or it is not what `kind` says.
    """
    target = load(import_path, folder)
    if isinstance(target, SqlEffect) and kind.in_library:
        return target
    shape, parameters = _SHAPES[kind]
    # A function or partial, or an object whose call is one.
    call = getattr(target, "__call__", None)  # noqa: B004
    if not (inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)):
        raise ConfigurationError(f"{import_path} is no async function; expected: {shape}")
    try:
        inspect.signature(target).bind(*range(parameters))
    except TypeError as error:
        raise ConfigurationError(
            f"{import_path} cannot be called so ({error}); expected: {shape}. "
            "--batch is for handlers of several messages, --own-loop for loops of your own"
        ) from None
    return target


__all__ = ["load", "load_target"]
