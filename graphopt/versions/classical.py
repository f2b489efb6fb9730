"""Changes to ops of classical models (domain ai.onnx.ml)."""

from __future__ import annotations

from ..ops.scores import DOMAIN
from .table import Node, changed


def _numbered(node: Node) -> Node:
    """Opset 1 knew one table, of strings and their places, to be read both ways."""
    strings = node.attrs.pop("classes_strings", None) or ()
    node.attrs["cats_strings"] = strings
    node.attrs["cats_int64s"] = tuple(range(len(strings)))
    return node


changed("CategoryMapper", 2, read=_numbered, older="LabelEncoder", domain=DOMAIN)
