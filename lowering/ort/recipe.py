"""How a model is best opened in ONNX Runtime: versioned JSON beside it, with reasons.

``MODEL.session.json`` names providers with their options, options of the session, and
whether inputs and outputs are to be bound to the device. Nothing in it changes what a
model computes but ``use_tf32``, which it always states.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from graphopt.errors import UsageError, nearest
from graphopt.files import atomic_write

from .arena import MEMBERS as ARENA

SCHEMA: Final = 1

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Our names of ONNX Runtime's execution providers, and its own."""

CONFIG: Final = (
    "optimization.disable_specified_optimizers",
    "session.disable_cpu_ep_fallback",
    "session.disable_prepacking",
    "session.set_denormal_as_zero",
)
"""Entries of a session's configuration that a recipe may hold: no paths, no code."""

RUN: Final = ("memory.enable_memory_arena_shrinkage",)
"""Entries of the configuration of each run that a recipe may hold."""

SESSION: Final = (
    "enable_cpu_mem_arena",
    "enable_mem_pattern",
    "enable_mem_reuse",
    "execution_mode",
    "execution_order",
    "graph_optimization_level",
    "inter_op_num_threads",
    "intra_op_num_threads",
)
"""Members of ``onnxruntime.SessionOptions`` that a recipe may set."""

_MALFORMED: Final = (
    AttributeError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a file that is no recipe ends with."""


@dataclass(frozen=True)
class Recipe:
    """What to open a model with. ``reasons`` are by option; what was not chosen, too.

    ``fallbacks`` are ops that the provider has no kernel for, with the reason: they run
    on the CPU. ``bound`` tells that inputs and outputs should stay on the device.
    ``arena`` is one of the session's own (see `arena`), ``run`` are options of each
    run. ``made_for`` says by name where alone the model may be opened: it holds what
    one version of the runtime wrote for one processor (see `ordered`).
    """

    provider: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    session: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)
    arena: Mapping[str, Any] = field(default_factory=dict)
    made_for: Mapping[str, str] = field(default_factory=dict)
    bound: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    declined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fallbacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """For ``onnxruntime.InferenceSession``; the CPU is always the last resort."""
        last: tuple[str, dict[str, str]] = (PROVIDERS["cpu"], {})
        if self.provider == "cpu":
            return [(PROVIDERS["cpu"], dict(self.options))]
        return [(PROVIDERS[self.provider], dict(self.options)), last]

    @property
    def ordered(self) -> bool:
        """Whether it is of a graph on the CPU whose order was planned."""
        return self.provider == "cpu" and "execution_order" in self.session

    @property
    def layouts(self) -> bool:
        """Whether convolutions are laid out anew, where there are any."""
        return self.session.get("graph_optimization_level") != "ORT_DISABLE_ALL"

    @property
    def reuse(self) -> bool:
        """Whether buffers are given to values of their own shape, as by default."""
        return bool(self.session.get("enable_mem_reuse", True))

    @property
    def unpacked(self) -> Recipe:
        """The same for sessions that never run: no weights are packed."""
        config = {**self.config, "session.disable_prepacking": "1"}
        return replace(self, config=config)

    @property
    def fallback_kinds(self) -> frozenset[str]:
        """The kinds of the ops that the provider has no kernel for."""
        labels = (place.partition(" ")[0] for place in self.fallbacks)
        return frozenset(label.rpartition(".")[2] for label in labels)

    def to_json(self) -> dict[str, Any]:
        """The object that the file holds."""
        return {
            "schema": SCHEMA,
            "providers": [{"name": n, "options": o} for n, o in self.providers],
            "session": dict(self.session),
            "config": dict(self.config),
            "run": dict(self.run),
            "arena": dict(self.arena),
            "made_for": dict(self.made_for),
            "io_binding": self.bound,
            "reasons": dict(self.reasons),
            "declined": {name: list(why) for name, why in self.declined.items()},
            "fallbacks": dict(self.fallbacks),
        }

    @classmethod
    def from_json(cls, text: str | bytes, where: str | None = None) -> Self:
        """The recipe in a text. Raises UsageError for what is none, or a newer one."""
        try:
            found = json.loads(text)
            if found["schema"] != SCHEMA:
                raise UsageError(
                    f"the session recipe has schema {found['schema']!r}; this graphopt"
                    f" reads {SCHEMA}",
                    where=where,
                )
            first = found["providers"][0]
            made = cls(
                provider=_short(first["name"], where),
                options={str(k): str(v) for k, v in first.get("options", {}).items()},
                session=_known(found.get("session", {}), SESSION, where),
                config=_known(found.get("config", {}), CONFIG, where),
                run=_known(found.get("run", {}), RUN, where),
                arena=_known(found.get("arena", {}), ARENA, where),
                made_for=dict(found.get("made_for", {})),
                bound=bool(found.get("io_binding", False)),
                reasons=dict(found.get("reasons", {})),
                declined={k: tuple(v) for k, v in found.get("declined", {}).items()},
                fallbacks=dict(found.get("fallbacks", {})),
            )
        except _MALFORMED as error:
            raise UsageError(f"no session recipe: {error!r}", where=where) from None
        return made

    @classmethod
    def beside(cls, model: str | os.PathLike[str]) -> Self | None:
        """The recipe of a model file, None where there is none; raises UsageError."""
        path = recipe_path(model)
        if not path.exists():
            return None
        return cls.from_json(path.read_bytes(), str(path))

    def save(self, model: str | os.PathLike[str]) -> Path:
        """Write the recipe beside a model file; the path."""
        path = recipe_path(model)
        text = json.dumps(self.to_json(), indent=2) + "\n"
        atomic_write(path, text.encode())
        return path

    def lines(self) -> Iterator[str]:
        """What was chosen and why, what was not, and what runs on the CPU."""
        yield f"provider {PROVIDERS[self.provider]}"
        chosen = {**self.options, **self.session, **self.config, **self.run}
        chosen |= {f"arena {name}": value for name, value in self.arena.items()}
        for name, value in chosen.items():
            yield f"  {name} = {value}: {self.reasons.get(name, 'as asked')}"
        if self.bound:
            yield f"  inputs and outputs bound: {self.reasons['io_binding']}"
        for name, value in self.made_for.items():
            yield f"  only for {name} {value}"
        for name, why in self.declined.items():
            yield f"  no {name}: {'; '.join(why)}"
        for op, said in self.fallbacks.items():
            yield f"  on the CPU: {op}: {said}"


def recipe_path(model: str | os.PathLike[str]) -> Path:
    """``model.onnx`` -> ``model.session.json``."""
    return Path(model).with_suffix(".session.json")


def _short(name: str, where: str | None) -> str:
    for short, full in PROVIDERS.items():
        if name == full:
            return short
    raise UsageError(
        f"unknown provider {name!r}{nearest(name, PROVIDERS.values())}", where=where
    )


def _known(
    found: Mapping[str, Any], known: tuple[str, ...], where: str | None
) -> dict[str, Any]:
    for name in found:
        if name not in known:
            raise UsageError(
                f"a recipe cannot set {name!r}{nearest(name, known)}", where=where
            )
    return dict(found)
