"""Where the pipeline runs: as local processes here, as pods elsewhere. Nothing above them differs."""

from onceproof_chaos.backend.base import Backend, BackendError, Instance, Role
from onceproof_chaos.backend.process import ProcessBackend

__all__ = ["Backend", "BackendError", "Instance", "ProcessBackend", "Role"]
