"""Sharding: one graph on a mesh of devices, from the ops' index maps alone."""

from .choices import Choice as Choice, choices as choices
from .layout import Layout as Layout
from .mesh import Mesh as Mesh
from .partition import Decisions as Decisions, partition as partition
from .program import Program as Program
