"""Recurrent networks: RNN, GRU, LSTM.

Each direction runs over its steps with a state; what comes from the operand alone is
one matrix product for all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from ..dims import Dim
from ..index import Maps
from ..types import DType
from ..xp.foundation import WIDE
from .gates import Function, gate_functions
from .registry import op
from .steering import joined, shape_of
from .structured import Array, Structured

if TYPE_CHECKING:
    from ..xp import Namespace

States: TypeAlias = tuple[Array, ...]


class Cell(NamedTuple):
    """What one direction knows beside its states."""

    hidden: int
    weights: Array
    """``[hidden, gate * hidden]``."""
    bias: Array
    """``[gate * hidden]``: that of the recurrent part."""
    peepholes: Array | None
    functions: Sequence[Function]
    clip: float | None

    def clipped(self, xp: Namespace, x: Array) -> Array:
        """What a gate is computed from, within the bounds that the op states."""
        return x if self.clip is None else xp.clip(x, -self.clip, self.clip)


class Recurrent(Structured):
    """``[step, batch, input]`` to ``[step, direction, batch, hidden]``; last states.

    ``layout`` 1 has the batch first everywhere. Beyond the length that
    ``sequence_lens`` gives a sequence, its results are zero and its states stay.
    """

    gates: ClassVar[int]
    activation_names: ClassVar[tuple[str, ...]]
    """The activations where none are stated."""
    states: ClassVar[int] = 1

    def step(self, xp: Namespace, gates: Array, states: States, cell: Cell) -> States:
        """The next states; ``gates`` is what comes from the operand."""
        raise NotImplementedError

    @property
    def directions(self) -> int:
        """How many directions there are."""
        return 2 if self.direction == "bidirectional" else 1

    def index_maps(self) -> Maps | None:
        ahead = self.direction == "forward" and self.operand(4) is None
        step = "t" if ahead else "_t"
        if self.layout:
            x, y, state = ["b", step, "_i"], ["b", step, "_d", "_h"], ["b", "_d", "_h"]
        else:
            x, y, state = [step, "b", "_i"], [step, "_d", "b", "_h"], ["_d", "b", "_h"]
        gates = ["_d", "_gates"]
        operands = [x, [*gates, "_i"], [*gates, "_h"], ["_d", "_biases"], ["b"]]
        operands += [state, state, ["_d", "_peepholes"]]
        return self.parse_maps(
            joined(operands[: len(self.operands)], [y, state, state][: self.outs]),
            carried=("t",) if ahead else (),
            combiner=None,
            cost=self._cost(),
        )

    def _cost(self) -> float:
        """Per point of a domain that has all axes, of which few meet at a time."""
        shapes = [shape_of(self, i) for i in (1, 2, 3, 7)]
        sizes = [shape[-1] for shape in shapes if shape is not None]
        known = [size for size in sizes if isinstance(size, int) and size]
        if len(known) < max(len(sizes), 2):
            return 0.0
        return 2 * (known[0] + known[1]) / prod(known)

    def extents(self) -> Mapping[str, Dim]:
        return {"h": self.hidden_size} if self.hidden_size else {}

    def compute(
        self,
        xp: Namespace,
        x: Array,
        w: Array,
        r: Array,
        biases: Array = None,
        lengths: Array = None,
        *others: Array,
    ) -> Array | tuple[Array, ...]:
        dtype, layout = x.dtype, self.layout
        wide = WIDE.get(dtype, dtype)
        x, w, r = (xp.cast(v, wide) for v in (x, w, r))
        x = xp.transpose(x, (1, 0, 2)) if layout else x
        shape = (self.directions, x.shape[1], r.shape[-1])
        if biases is None:
            biases = xp.zeros((self.directions, 2 * w.shape[1]), wide)
        biases = xp.reshape(xp.cast(biases, wide), (self.directions, 2, -1))
        given = [*others, None, None, None]
        starts = []
        for start in given[: self.states]:
            if start is None:
                starts.append(xp.zeros(shape, wide))
            else:
                start = xp.transpose(start, (1, 0, 2)) if layout else start
                if tuple(start.shape) != shape:
                    raise ValueError(f"a state of {start.shape}, not {shape}")
                starts.append(xp.cast(start, wide))
        peepholes = None if given[2] is None else xp.cast(given[2], wide)
        functions = self._functions(xp)
        count = len(self.activation_names)
        rows, ends = [], []
        for d in range(self.directions):
            cell = Cell(
                hidden=r.shape[-1],
                weights=xp.transpose(r[d]),
                bias=biases[d, 1],
                peepholes=None if peepholes is None else peepholes[d],
                functions=functions[d * count : (d + 1) * count],
                clip=self.clip,
            )
            backward = d == 1 or self.direction == "reverse"
            turned = _turned(xp, x, lengths) if backward else x
            gates = xp.add(xp.matmul(turned, xp.transpose(w[d])), biases[d, 0])
            states = tuple(start[d] for start in starts)
            end, row = self._run(xp, gates, states, lengths, cell)
            rows.append(_turned(xp, row, lengths) if backward else row)
            ends.append(end)
        results = [xp.stack(rows, axis=1)]
        results += [xp.stack(column) for column in zip(*ends, strict=True)]
        if layout:
            results[0] = xp.transpose(results[0], (2, 0, 1, 3))
            results[1:] = [xp.transpose(state, (1, 0, 2)) for state in results[1:]]
        results = [xp.cast(result, dtype) for result in results[: self.outs]]
        return results[0] if self.outs == 1 else tuple(results)

    def _functions(self, xp: Namespace) -> list[Function]:
        return gate_functions(
            xp,
            self.activations or self.activation_names * self.directions,
            self.activation_alpha or (),
            self.activation_beta or (),
        )

    def _run(
        self,
        xp: Namespace,
        gates: Array,
        start: States,
        lengths: Array | None,
        cell: Cell,
    ) -> tuple[States, Array]:
        """The states after the last step, and the first of them after each step."""

        def body(states: States, slices: States) -> tuple[States, States]:
            made = self.step(xp, slices[0], states, cell)
            if lengths is None:
                return made, made[:1]
            alive = slices[1][:, None]
            pairs = zip(made, states, strict=True)
            kept = tuple(xp.where(alive, new, old) for new, old in pairs)
            return kept, (xp.where(alive, made[0], 0),)

        sequences = [gates]
        if lengths is not None:
            at = xp.reshape(xp.arange(0, gates.shape[0], 1, DType.I64), (-1, 1))
            sequences.append(xp.less(at, xp.cast(lengths, DType.I64)))
        end, (row,) = xp.scan(body, start, sequences)
        return end, row


def _turned(xp: Namespace, x: Array, lengths: Array | None) -> Array:
    """``[step, batch, ...]`` with the steps of each sequence backwards."""
    if lengths is None:
        return xp.flip(x, 0)
    return xp.reverse_sequence(x, lengths, 1, 0)


@op("RNN")
class RNN(Recurrent):
    """h = f(x W' + h R' + biases)."""

    gates = 1
    activation_names = ("Tanh",)

    def step(self, xp: Namespace, gates: Array, states: States, cell: Cell) -> States:
        (h,) = states
        (f,) = cell.functions
        total = gates + xp.matmul(h, cell.weights) + cell.bias
        return (f(cell.clipped(xp, total)),)


@op("GRU")
class GRU(Recurrent):
    """h = (1 - z) * g(candidate) + z * h, where z = f(update) and r = f(reset).

    The candidate is x W' + (r * h) R' + biases; with ``linear_before_reset``, r
    multiplies h R' + its bias instead.
    """

    gates = 3
    activation_names = ("Sigmoid", "Tanh")

    def step(self, xp: Namespace, gates: Array, states: States, cell: Cell) -> States:
        (h,) = states
        f, g = cell.functions
        two = 2 * cell.hidden
        product = xp.matmul(h, cell.weights[:, :two]) + cell.bias[:two]
        both = f(cell.clipped(xp, gates[:, :two] + product))
        z, r = both[:, : cell.hidden], both[:, cell.hidden :]
        last, bias = cell.weights[:, two:], cell.bias[two:]
        if self.linear_before_reset:
            rest = r * (xp.matmul(h, last) + bias)
        else:
            rest = xp.matmul(r * h, last) + bias
        new = g(cell.clipped(xp, gates[:, two:] + rest))
        return ((1 - z) * new + z * h,)


@op("LSTM")
class LSTM(Recurrent):
    """c = f * c + i * g(candidate); h = o * h(c), the gates i, o, f being sigmoids.

    Peepholes add c to what gates are computed from. With ``input_forget``, f is 1 - i.
    ``clip`` bounds what gates are computed from, not c.
    """

    gates = 4
    activation_names = ("Sigmoid", "Tanh", "Tanh")
    states = 2

    def step(self, xp: Namespace, gates: Array, states: States, cell: Cell) -> States:
        h, c = states
        size = cell.hidden
        sigma, squash, out = cell.functions
        total = gates + xp.matmul(h, cell.weights) + cell.bias
        i, o, f, new = (total[:, n * size : (n + 1) * size] for n in range(4))
        look = [0, 0, 0]
        if cell.peepholes is not None:
            look = [cell.peepholes[n * size : (n + 1) * size] for n in range(3)]
        i = sigma(cell.clipped(xp, i + look[0] * c))
        f = sigma(cell.clipped(xp, f + look[2] * c))
        f = 1 - i if self.input_forget else f
        c = f * c + i * squash(cell.clipped(xp, new))
        return sigma(cell.clipped(xp, o + look[1] * c)) * out(c), c
