"""Where ONNX Runtime put each node of a session: read back, not guessed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from .kernels import Kernels
from .recipe import PROVIDERS

SHOWN: Final = 5
"""Nodes of one sort whose names are shown."""


class Node(NamedTuple):
    """One node after the runtime's own optimizations, and the provider it runs on."""

    name: str
    kind: str
    domain: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """The nodes of a session."""

    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, session: Any) -> Placement | None:
        """That of an ``InferenceSession`` that was made to record it.

        None where this ONNX Runtime is too old to say, or was not asked to.
        """
        try:
            parts = session.get_provider_graph_assignment_info()
        except (AttributeError, RuntimeError):
            return None
        return cls(
            tuple(
                Node(node.name, node.op_type, node.domain, part.ep_name)
                for part in parts
                for node in part.get_nodes()
            )
        )

    def counts(self) -> dict[str, int]:
        """How many nodes each provider has."""
        found: dict[str, int] = {}
        for node in self.nodes:
            found[node.provider] = found.get(node.provider, 0) + 1
        return found

    def strays(self, provider: str, expected: Collection[str] = ()) -> list[Node]:
        """Nodes on the CPU of a session for another provider, "cuda".

        Left out are kinds that this provider has kernels for, unless they are
        ``expected`` there for their types: the runtime puts arithmetic on shapes on the
        CPU on purpose.
        """
        kernels = Kernels.of(provider)
        return [
            node
            for node in self.nodes
            if node.provider == PROVIDERS["cpu"]
            and (node.kind in expected or not kernels.has(node.domain, node.kind))
        ]


def said_of(strays: list[Node]) -> Iterator[str]:
    """The strays by kind, in words."""
    by_kind: dict[str, list[Node]] = {}
    for node in strays:
        by_kind.setdefault(node.kind, []).append(node)
    for kind, nodes in by_kind.items():
        names = [repr(node.name) for node in nodes[:SHOWN] if node.name]
        more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
        yield f"{len(nodes)} {kind} ({', '.join(names)}{more})" if names else kind
