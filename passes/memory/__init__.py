"""Memory: in which order ops run, and where their buffers lie."""

from __future__ import annotations

from .schedule import Schedule, schedule
from .tasks import Task, Tasks, peak, profile

__all__ = ["Schedule", "Task", "Tasks", "peak", "profile", "schedule"]
