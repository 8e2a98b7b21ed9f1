"""Where the pipeline runs: as local processes here, as pods elsewhere. Nothing above them differs."""

from onceproof_chaos.backend.base import PIPELINE, Backend, BackendError, Instance, Role
from onceproof_chaos.backend.process import ProcessBackend

__all__ = ["PIPELINE", "Backend", "BackendError", "Instance", "ProcessBackend", "Role"]
