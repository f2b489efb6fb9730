"""Which passes run: those of a level and a target, and what the user adds or skips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from .errors import UsageError, nearest
from .lowering.xla.platforms import PLATFORMS
from .ops.schema import LATEST
from .passes import ALL
from .passes.raise_activations import RaiseActivations
from .passes.tiling import Flash
from .pipeline import Pass, Pipeline, as_pass, listed
from .plugins import KNOWN, find

LEVELS: Final = (0, 1, 2)
"""0 nothing, 1 exact rules only, 2 approximate ones too (none is lossy)."""

RUNTIMES: Final = ("ort-cpu", "ort-cuda")
"""Targets that take a model with ops of ONNX Runtime."""

Fuse: TypeAlias = Literal["auto", "max"]


def choose(
    *,
    level: int = 2,
    passes: Iterable[str | Pass] | None = None,
    add: Iterable[str | Pass] = (),
    skip: Iterable[str] = (),
    target: str = "onnx",
    fuse: Fuse = "auto",
) -> Pipeline:
    """The pipeline for a level, or of just these ``passes``; see `optimize`.

    A pass that is added takes the place of one of its name, or comes last.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no level {level}; known: 0, 1, 2")
    if passes is not None:
        chosen = [_pass(p) for p in listed(passes)]
    else:
        chosen = [cls() for cls in ALL if cls.level <= level]
        if target == "onnx":  # any runtime: few have Swish
            plain = RaiseActivations(swish=False)
            chosen = [plain if p == RaiseActivations() else p for p in chosen]
    for extra in map(_pass, listed(add)):
        names = [p.name for p in chosen]
        if extra.name in names:
            chosen[names.index(extra.name)] = extra
        else:
            chosen.append(extra)
    for name in [skip] if isinstance(skip, str) else skip:
        if name not in KNOWN and all(p.name != name for p in chosen):
            raise UsageError(f"unknown pass {name!r}{nearest(name, KNOWN)}")
        chosen = [p for p in chosen if p.name != name]
    if level == 1:
        chosen = [p for p in (p.limited_to_exact() for p in chosen) if p is not None]
    loops = target in PLATFORMS and any(p.trades for p in chosen)
    if loops and all(p.name != Flash.name for p in chosen):
        chosen.insert(0, Flash(target=target))  # there a loop of blocks costs nothing
    pipeline = Pipeline.of(chosen if level or passes is not None else ())
    if loops:
        pipeline = replace(pipeline, opset=LATEST)  # which no program says
    if target not in RUNTIMES or passes is not None or level < 2:
        return pipeline
    from .lowering.ort.pipeline import lowered  # which reads the table of kernels

    return lowered(pipeline, target, most=fuse == "max")


def _pass(spec: object) -> Pass:
    """Raises UsageError as `find` and `as_pass`."""
    return find(spec) if isinstance(spec, str) else as_pass(spec)
