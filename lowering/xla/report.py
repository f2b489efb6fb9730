"""What XLA says of a program that it has compiled: memory, work, collectives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .buffers import places
from .kernels import largest, taken

STATUS: Final = "compiled, not executed"

_COLLECTIVE: Final = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute"
    r"|ragged-all-to-all|reduce-scatter)(?:-start)?\("
)
_SCOPED: Final = re.compile(
    r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"\d+","size":"(\d+)"'
)


@dataclass(frozen=True)
class Memory:
    """Bytes of a program on one device; those of arrays with the padding of tiles.

    ``vmem`` is the most that an op of a TPU takes in VMEM for itself while it runs,
    beside arrays that are kept there; None for other devices. ``scratch`` is by how
    much kernels of a CPU's libraries take it over ``temp`` and ``output`` while they
    run, ``kept`` what they keep: XLA counts neither, they are foreseen (`kernels`).
    """

    argument: int
    output: int
    temp: int
    alias: int
    code: int
    vmem: int | None
    scratch: int = 0
    kept: int = 0
    kernel: tuple[int, str] = (0, "")
    """Bytes of the one that takes most for itself, and its node."""

    @property
    def foreseen(self) -> int:
        """By what a process grows that runs it, its arguments already there."""
        return self.temp + self.output - self.alias + self.scratch + self.kept

    @property
    def total(self) -> int:
        """What the device must have: what outputs share with arguments counts once."""
        return self.argument + self.output - self.alias + self.temp + self.code


@dataclass(frozen=True)
class Examined:
    """A program as its compiler sees it; it was not run.

    ``used`` says what compiled it, and for what; ``inputs`` for which types of inputs.
    ``attention`` says in which forms a TPU runs how many of them.
    ``flops``, ``bytes`` and ``hbm_limit``, what a TPU has for a program, are None where
    the compiler does not say.
    """

    used: Mapping[str, Any]
    inputs: Mapping[str, str]
    memory: Memory
    tpu: bool
    hbm_limit: int | None
    flops: int | None
    bytes: int | None
    collectives: Mapping[str, int]
    lower_seconds: float
    compile_seconds: float
    attention: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The members that ``--json`` prints. All memory is that of one device."""
        memory = self.memory
        tpu = {
            "hbm_bytes": memory.total,
            "hbm_limit_bytes": self.hbm_limit,
            "vmem_bytes": memory.vmem,
        }
        kernels = {"scratch_bytes": memory.scratch, "kept_bytes": memory.kept}
        return {
            **self.used,
            "status": STATUS,
            "executed": False,
            "fits": True if self.tpu else None,
            "inputs": dict(self.inputs),
            "memory": {
                "argument_bytes": memory.argument,
                "output_bytes": memory.output,
                "temp_bytes": memory.temp,
                "alias_bytes": memory.alias,
                "code_bytes": memory.code,
                "total_bytes": memory.total,
                **(tpu if self.tpu else kernels),
            },
            "flops": self.flops,
            "bytes": self.bytes,
            "collectives": dict(self.collectives),
            **({"attention": dict(self.attention)} if self.tpu else {}),
            "seconds": {
                "lower": round(self.lower_seconds, 6),
                "compile": round(self.compile_seconds, 6),
            },
        }


def read(compiled: Any, platform: str = "") -> dict[str, Any]:
    """The numbers of a `jax.stages.Compiled`, as members of `Examined`."""
    text = compiled.as_text()
    costs = compiled.cost_analysis() or {}
    return {
        "memory": memory_of(compiled, platform, text),
        "flops": _counted(costs.get("flops")),
        "bytes": _counted(costs.get("bytes accessed")),
        "collectives": collectives(text),
    }


def collectives(text: str) -> dict[str, int]:
    """How many of each kind a compiled program has; one that is split counts once."""
    return dict(sorted(Counter(_COLLECTIVE.findall(text)).items()))


def memory_of(compiled: Any, platform: str = "", text: str | None = None) -> Memory:
    """What a `jax.stages.Compiled` takes; its program, ``text``, tells of kernels."""
    stats = compiled.memory_analysis()
    text = compiled.as_text() if text is None else text
    scoped = [int(size) for size in _SCOPED.findall(text)]
    temp = stats.temp_size_in_bytes
    output, alias = stats.output_size_in_bytes, stats.alias_size_in_bytes
    scratch = kept = 0
    kernel = 0, ""
    if platform == "cpu":
        where = places(compiled)
        scratch, kept = taken(text, temp, output - alias, places=where)
        kernel = largest(text)
    return Memory(
        argument=stats.argument_size_in_bytes,
        output=output,
        temp=temp,
        alias=alias,
        code=stats.generated_code_size_in_bytes,
        vmem=max(scoped, default=None),
        scratch=scratch,
        kept=kept,
        kernel=kernel,
    )


def _counted(number: float | None) -> int | None:
    """A sum that XLA made; it is negative where a part is not known."""
    return None if number is None or number < 0 else int(number)
