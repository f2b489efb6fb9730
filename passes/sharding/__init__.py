"""Sharding: one graph on a mesh of devices, from the ops' index maps alone."""

from .layout import Layout as Layout
from .mesh import Mesh as Mesh
from .program import Program as Program
