"""The graph IR: Value, Op, Graph. Immutable and interned.

Equal ops are the same object: asking for ``Add(a, b)`` twice gives one op, so common
subexpressions merge as they are built, and what no output reaches is simply not there.
An op with one result is its own value; the results of others are `Result` projections.
"""

from .graph import Graph, Header
from .rebuild import forward, postorder, rebuild
from .values import Attr, Contents, Op, Parameter, Result, Value, canonical

__all__ = [
    "Attr",
    "Contents",
    "Graph",
    "Header",
    "Op",
    "Parameter",
    "Result",
    "Value",
    "canonical",
    "forward",
    "postorder",
    "rebuild",
]
