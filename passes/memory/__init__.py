"""Memory: when each value is live, in which order ops run, and where all of it lies.

A plan is made of a graph, an order and a memory space; `validate` doubts it, and
`run_in_arena` computes the graph inside of one byte array at the planned offsets.
"""

from __future__ import annotations

from .allocate import pack
from .arena import run_in_arena
from .buckets import Plans
from .buffers import Buffer
from .plan import MemoryPlan, Placement, plan_memory
from .schedule import Schedule, schedule
from .space import SPACES, Space
from .tasks import Task, Tasks, peak, profile
from .validate import PlanIsWrong, validate

__all__ = [
    "SPACES",
    "Buffer",
    "MemoryPlan",
    "Placement",
    "PlanIsWrong",
    "Plans",
    "Schedule",
    "Space",
    "Task",
    "Tasks",
    "pack",
    "peak",
    "plan_memory",
    "profile",
    "run_in_arena",
    "schedule",
    "validate",
]
