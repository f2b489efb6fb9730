"""Small problems, and their optimum by trying everything."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from graphopt.passes.sharding.layout import Layout
from graphopt.passes.sharding.machine import Machine
from graphopt.passes.sharding.mesh import Mesh
from graphopt.passes.sharding.problem import Carried, Node, Option, Problem
from graphopt.passes.sharding.states import States
from graphopt.types import DType, TensorType


def states(mesh: str, *shape: int, target: str = "h100") -> States:
    machine = Machine.of(target, Mesh.parse(mesh))
    return States(machine.mesh, machine.seconds, TensorType(DType.F32, shape))


def best(problem: Problem) -> float:
    """The least cost of all choices that keep the limits; inf without any."""
    every = itertools.product(*[range(len(n.options)) for n in problem.nodes])
    costs = [problem.seconds(c) for c in every if problem.keeps(c)]
    return min(costs, default=float("inf"))


def random_problem(seed: int, mesh: str = "2x2", nodes: int = 4) -> Problem:
    """A few nodes of random options, whose values go to random later nodes.

    Some have operands that nothing feeds, some occupy memory, and some are read by two
    others, or twice by one.
    """
    draw = random.Random(seed)
    of = states(mesh, 64, 64)
    size = 1e-5 * draw.choice((0.1, 1, 10))
    reads: list[list[int]] = [[] for _ in range(nodes)]
    for number in range(nodes - 1):
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
            reads[draw.randrange(number + 1, nodes)].append(number)
    times = [1] * nodes if draw.random() < 0.5 else [draw.choice((1, 3))] * nodes

    def option(number: int) -> Option:
        def pick() -> Layout:
            return draw.choice(of.layouts)

        gives = pick()
        kept = not reads[number] and draw.random() < 0.7
        return Option(
            tuple([pick() for _ in reads[number]]),
            (gives,),
            draw.random() * size,
            int(of.bytes[of.number[gives]]) if kept else 0,
        )

    made = [
        Node(f"n{i}", [option(i) for _ in range(draw.randint(1, 6))], times[i])
        for i in range(nodes)
    ]
    carried = []
    for number in range(nodes):
        sinks = [
            (n, i) for n in range(nodes) for i, m in enumerate(reads[n]) if m == number
        ]
        if sinks:
            carried.append(Carried(of, (number, 0), tuple(sinks), times[number]))
    return Problem(made, carried)


def least_bytes(problem: Problem) -> float:
    """The least that all nodes occupy."""
    return float(sum(n.times * min(o.bytes for o in n.options) for n in problem.nodes))


def tight(problem: Problem, share: float) -> Problem:
    """The problem with room for this share between the least and the most."""
    least = least_bytes(problem)
    most = sum(n.times * max(o.bytes for o in n.options) for n in problem.nodes)
    return replace(problem, limit=least + share * (most - least))
