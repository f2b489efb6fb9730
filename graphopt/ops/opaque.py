"""Ops that are not modelled: carried through as they were written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import NoReference
from ..ir import Op
from ..types import Type
from .registry import kinds

if TYPE_CHECKING:
    from onnx import NodeProto


class Opaque(Op):
    """A node kept verbatim; only the names around it may change.

    ``operands`` are the node's inputs, followed by the values that its bodies read from
    around them (``captures``: the names that they have in there). ``version`` is the
    opset of its domain, and pins its meaning. The attribute ``node`` is a serialized
    NodeProto; ``declared`` are the types that the model states for the results.
    Never merged (each has its ``token``), folded, or dropped while used.
    """

    __slots__ = ()
    kind = "Opaque"
    domain = "graphopt"
    deterministic = False

    def default_outs(self) -> int:
        declared: tuple[Type, ...] = self.attrs["declared"]  # type: ignore[assignment]
        return len(declared)

    def infer(self) -> Sequence[Type]:
        return self.attrs["declared"]  # type: ignore[return-value]

    @property
    def label(self) -> str:
        node = self.node
        return f"{node.domain}.{node.op_type}" if node.domain else node.op_type

    @property
    def node(self) -> NodeProto:
        """A fresh copy of the node."""
        from onnx import NodeProto

        node: NodeProto = NodeProto.FromString(self.attrs["node"])
        return node

    def no_reference(self) -> NoReference:
        """The error where its value is asked for: domain, version, reason, node."""
        domain, name = str(self.op_domain), self.node.name
        why = "no such op is modelled"
        if (domain, self.op_type) in kinds:
            why = f"there is none in opset {self.version}, only in others"
        return NoReference(
            f"no reference for {self.label} (domain {domain or 'ai.onnx'}, opset"
            f" {self.version}): {why}; runtimes may know it (--target ort-cpu)",
            where=f"{self.label} node {name!r}" if name else self.label,
        )


kinds["graphopt", "Opaque"] = Opaque  # type: ignore[assignment]
