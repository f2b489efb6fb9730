"""Memory: when each value is live, in which order ops run, and where all of it lies.

A plan is made of a graph, an order and a memory space; `validate` doubts it, and
`run_in_arena` computes the graph inside of one byte array at the planned offsets.
`allocate` finds offsets for any buffers, `schedule` orders for any tasks.
"""

from __future__ import annotations

from .allocate import METHODS, STEPS, Method, allocate, pack
from .arena import run_in_arena
from .buckets import Plans
from .buffers import Buffer, Packing, Proof, components, lower_bound
from .partial import Summed, summed
from .plan import MemoryPlan, Placement, plan_memory, repacked
from .recompute import Recomputed, recomputed
from .schedule import Schedule, schedule
from .space import SPACES, Space
from .tasks import Task, Tasks, peak, profile
from .validate import PlanIsWrong, validate

__all__ = [
    "METHODS",
    "SPACES",
    "STEPS",
    "Buffer",
    "MemoryPlan",
    "Method",
    "Packing",
    "Placement",
    "PlanIsWrong",
    "Plans",
    "Proof",
    "Recomputed",
    "Schedule",
    "Space",
    "Summed",
    "Task",
    "Tasks",
    "allocate",
    "components",
    "lower_bound",
    "pack",
    "peak",
    "plan_memory",
    "profile",
    "recomputed",
    "repacked",
    "run_in_arena",
    "schedule",
    "summed",
    "validate",
]
