"""Where the instructions of a compiled program write, as XLA has assigned buffers.

An output is no last buffer alone: what is as large and dies before lies there, too.
```
y = tanh(tanh(x @ w) @ w)  -->  output: {x @ w, tanh(..) @ w, y}, temporary: {tanh(..)}
```
So pages of outputs, and of temporaries, come when the first that lies there is written.
JAX gives both the assignment and the program as protocol buffers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Numbers of fields in xla/service/hlo.proto.
_BUFFERS, _ALLOCATIONS = 1, 3
_BUFFER_ID, _DEFINED_AT, _INSTRUCTION = 1, 3, 4
_INDEX, _THREAD_LOCAL, _PARAMETER, _LIVE_OUT, _ASSIGNED, _CONSTANT = 1, 3, 5, 7, 9, 12
_LOGICAL, _OFFSET, _SIZE = 1, 2, 3
_COMPUTATIONS, _INSTRUCTIONS, _NAME, _ID = 3, 2, 1, 35


@dataclass(frozen=True)
class Place:
    """Bytes of one allocation; ``output`` where that lives on after a run."""

    allocation: int
    begin: int
    end: int
    output: bool


def places(compiled: Any) -> dict[str, list[Place]]:
    """What each instruction of a `jax.stages.Compiled` writes, by its name.

    None of inputs and constants; empty where this version of JAX does not say.
    """
    stats = compiled.memory_analysis()
    assignment = getattr(stats, "serialized_buffer_assignment_proto", b"")
    if not assignment:
        return {}
    modules = compiled.runtime_executable().hlo_modules()
    if len(modules) != 1:
        return {}
    names = _names(modules[0].as_serialized_hlo_module_proto())
    return _places(assignment, names)


class Written:
    """Bytes that have been written: of temporaries, and of outputs."""

    def __init__(self) -> None:
        self._spans = defaultdict[tuple[bool, int], list[tuple[int, int]]](list)
        self.bytes = [0, 0]

    def add(self, more: Iterable[Place]) -> None:
        """Bytes that lie in others count once."""
        for place in more:
            spans = self._spans[place.output, place.allocation]
            begin, end = place.begin, place.end
            apart = [s for s in spans if s[1] < begin or end < s[0]]
            met = [s for s in spans if not (s[1] < begin or end < s[0])]
            begin = min([begin, *(s[0] for s in met)])
            end = max([end, *(s[1] for s in met)])
            self.bytes[place.output] += end - begin - sum(b - a for a, b in met)
            spans[:] = [*apart, (begin, end)]


def _places(assignment: bytes, names: Mapping[int, str]) -> dict[str, list[Place]]:
    definers: dict[int, str] = {}
    allocations: list[bytes] = []
    for number, value in _fields(assignment):
        if number == _BUFFERS:
            buffer = dict(_fields(value))
            where = dict(_fields(buffer.get(_DEFINED_AT, b"")))
            name = names.get(where.get(_INSTRUCTION, 0))
            if name is not None:
                definers[buffer.get(_BUFFER_ID, 0)] = name
        elif number == _ALLOCATIONS:
            allocations.append(value)
    found = defaultdict[str, list[Place]](list)
    for data in allocations:
        fields = list(_fields(data))
        facts = dict(fields)
        if any(facts.get(n) for n in (_THREAD_LOCAL, _PARAMETER, _CONSTANT)):
            continue
        index, output = facts.get(_INDEX, 0), bool(facts.get(_LIVE_OUT))
        for value in (value for number, value in fields if number == _ASSIGNED):
            part = dict(_fields(value))
            begin = part.get(_OFFSET, 0)
            name = definers.get(part.get(_LOGICAL, 0))
            if name is not None:
                end = begin + part.get(_SIZE, 0)
                found[name].append(Place(index, begin, end, output))
    return dict(found)


def _names(module: bytes) -> dict[int, str]:
    """The instructions of all computations, by their numbers."""
    found: dict[int, str] = {}
    for _, computation in _only(module, _COMPUTATIONS):
        for _, instruction in _only(computation, _INSTRUCTIONS):
            fields = dict(_fields(instruction))
            found[fields.get(_ID, 0)] = fields[_NAME].decode()
    return found


def _only(data: bytes, wanted: int) -> Iterator[tuple[int, Any]]:
    return ((number, value) for number, value in _fields(data) if number == wanted)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: an int, or bytes, by the number of the field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = 8 if kind == 1 else 4
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
