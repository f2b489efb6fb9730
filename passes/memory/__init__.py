"""Memory: when each value is live, in which order ops run, and where all of it lies.

A plan is made of a graph, an order and a memory space; `validate` doubts it, and
`run_in_arena` computes the graph inside of one byte array at the planned offsets.
"""

from .allocate import pack as pack
from .arena import run_in_arena as run_in_arena
from .buffers import Buffer as Buffer
from .plan import (
    MemoryPlan as MemoryPlan,
    Placement as Placement,
    plan_memory as plan_memory,
)
from .space import SPACES as SPACES, Space as Space
from .validate import PlanIsWrong as PlanIsWrong, validate as validate
