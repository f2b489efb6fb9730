"""Candidates for tuning as models that are written, opened and run in their target."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .bench import Clock, clock_of, open_model, race, threads_of
from .debug import timed
from .dim_names import inside, shown
from .errors import GraphoptError, UsageError
from .exporter import Wanted
from .feeds import bind
from .fitting import fitting
from .inputs import TRIED, likely, random_inputs
from .ir import Graph
from .lowering import Executable
from .lowering.ort.pipeline import SWITCHES, choices, lowered, settings, settings_of
from .output import weights_path, write_model
from .pipeline import PassRecord, Pipeline
from .tuning import Measured, Settings, Space, Tune, Tuning, search

if TYPE_CHECKING:
    from .driver import Checking


def space_of(
    pipeline: Pipeline, target: str, records: Sequence[PassRecord] = ()
) -> Space:
    """What can be decided for a target of ONNX Runtime, a pipeline being the default.

    That is what its lowering offers, and each other pass, if it did something
    (``records``). A pipeline without a lowering has passes alone.
    """
    provider = target.removeprefix("ort-")
    own = settings_of(pipeline)
    values = choices(provider) if own else {}
    start = {name: value for name, value in own.items() if name in values}
    busy = {r.name for r in records if r.fired or r.ops_before != r.ops_after}
    for each in reversed(pipeline.passes):
        if str(each) in busy and each.name not in values:
            values[each.name], start[each.name] = SWITCHES, "on"
    jumps = {
        f"fuse={name}": {
            n: v for n, v in settings(provider, most=most).items() if n in values
        }
        for name, most in (("auto", False), ("max", True))
        if own
    }

    def build(chosen: Settings) -> Pipeline:
        passes = tuple(
            each
            for each in pipeline.passes
            if each.name in own or chosen.get(each.name) != "off"
        )
        made = replace(pipeline, passes=passes)
        if not own:
            return made
        changed = {name: chosen[name] for name in own if name in chosen}
        return lowered(made, target, changed=changed)

    return Space(start, values, build, jumps)


def tuned(
    start: Graph,
    pipeline: Pipeline,
    target: str,
    how: Tune,
    checking: Checking,
    *,
    opset: Wanted = None,
    worse: Callable[[Graph, Graph, float, int], str],
) -> tuple[Pipeline, Tuning]:
    """The pipeline whose result is fastest in the target, and how it was found.

    It is empty where the original is faster than the best. ``worse`` says why a result
    cannot take the place of the original at all, the share given by which weights may
    grow. Raises UsageError for sizes that do
    not fit, what opening or running the original raises, BackendMissing.
    """
    began = time.monotonic()

    def spent() -> bool:
        return how.seconds is not None and time.monotonic() - began > how.seconds

    with timed("tuning"), tempfile.TemporaryDirectory() as folder:
        records = pipeline.run(start)[1]
        space = space_of(pipeline, target, records)
        rivals = Models(start, space, target, Path(folder), opset, how, worse)
        rivals.feed(how.sizes, checking)
        best, tried, stopped = search(
            space, rivals, steps=how.steps, spent=spent, progress=how.progress
        )
        how.progress("measuring the original")
        against = None if rivals.is_original(best) else rivals.race(None, best, seed=2)
    slower = against is not None and against.slower
    found = Tuning(
        target=target,
        threads=rivals.threads,
        clock=rivals.clock,
        rounds=how.rounds,
        sizes=tuple(rivals.sizes),
        defaulted=tuple(rivals.defaulted),
        tried=tuple(tried),
        settings={n: v for n, v in best.items() if space.start[n] != v},
        against=against,
        original=slower,
        stopped=stopped,
        seconds=time.monotonic() - began,
    )
    return Pipeline(()) if slower else space.build(best), found


Key: TypeAlias = frozenset[tuple[str, str]] | None


@dataclass(frozen=True)
class Rival:
    """A model that is open; ``digest`` is that of its bytes."""

    digest: str
    executable: Executable


class Models:
    """`Rivals` that are models: each is written, opened and run in the target."""

    def __init__(
        self,
        start: Graph,
        space: Space,
        target: str,
        folder: Path,
        opset: Wanted,
        how: Tune,
        worse: Callable[[Graph, Graph, float, int], str],
    ) -> None:
        self.start = start
        self.space = space
        self.target = target
        self.path = folder / "model.onnx"
        self.opset = opset
        self.rounds = how.rounds
        self.worse = worse
        self.threads = threads_of(target, how.threads)
        # Threads that wait for others spin: that is CPU time, and costs nobody time.
        self.clock: Clock = clock_of(target) if self.threads == 1 else "wall"
        self.feeds: list[Mapping[str, Any]] = []
        self.sizes: list[Mapping[str, int]] = []
        self.defaulted: list[str] = []
        self._held: dict[Key, Rival] = {}
        self._original = ""
        self._raced: set[str] = set()

    def feed(self, wanted: Sequence[Mapping[str, int]], checking: Checking) -> None:
        """Find inputs for all sizes, on which the original runs."""
        asked = [inside(sizes, self.start) for sizes in wanted]
        if checking.inputs is not None:
            if wanted:
                raise UsageError("inputs have their own sizes: give them or sizes")
            self.feeds = [checking.inputs]
            self.sizes = [bind(self.start, checking.inputs)[1]]
            self._original = self._opened(None).digest
            return
        original = self._opened(None)
        self._original = original.digest
        for fixed in asked or [{}]:
            if fixed:
                fitting(self.start, fixed)
            error: GraphoptError | None = None
            for sizes in islice(likely(self.start, fixed), TRIED):
                try:
                    feed = random_inputs(self.start, checking.seed, sizes)
                    original.executable(feed)
                except GraphoptError as failed:
                    error = error or failed
                    continue
                break
            else:
                assert error is not None
                raise error
            self.feeds.append(feed)
            self.sizes.append({shown(n): s for n, s in sizes.items()})
            self.defaulted += [
                shown(name)
                for name in sizes
                if name not in fixed and shown(name) not in self.defaulted
            ]

    def refused(self, best: Settings, candidate: Settings) -> str:
        self._held = {_key(best): self._opened(best)}  # the rest gives memory back
        try:
            digest = self._write(candidate)
            if digest == self._opened(best).digest:
                return "for they change nothing"
            if digest in self._raced:
                return "for they give a model that was measured"
            rival = self._held[_key(candidate)] = Rival(digest, self._open())
            rival.executable(self.feeds[0])
        except GraphoptError as error:
            return f"for {error.message}"
        return ""

    def race(self, before: Settings | None, after: Settings, seed: int) -> Measured:
        first, second = self._opened(before), self._opened(after)
        self._raced.add(second.digest)
        whole, each = race(
            first.executable,
            second.executable,
            self.feeds,
            clock=self.clock,
            rounds=self.rounds,
            seed=seed,
        )
        return Measured(whole, each)

    def is_original(self, settings: Settings) -> bool:
        """True where the result of these settings is the original itself."""
        return self._opened(settings).digest == self._original

    def _opened(self, settings: Settings | None) -> Rival:
        key = _key(settings)
        if key not in self._held:
            self._held[key] = Rival(self._write(settings), self._open())
        return self._held[key]

    def _open(self) -> Executable:
        """What was written last, opened."""
        return open_model(self.target, None, self.path, self.threads)

    def _write(self, settings: Settings | None) -> str:
        """Write the model of these settings, or the original if worse; a digest."""
        graph = self.start
        if settings is not None:
            pipeline = self.space.build(settings)
            made, records = pipeline.run(graph)
            allowed = pipeline.growth, pipeline.unrolled(records)
            graph = graph if self.worse(graph, made, *allowed) else made
        weights_path(self.path).unlink(missing_ok=True)
        write_model(graph, self.path, self.target, self.opset)
        digest = hashlib.sha256()
        for file in (self.path, weights_path(self.path)):
            if file.exists():
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


def _key(settings: Settings | None) -> Key:
    return None if settings is None else frozenset(settings.items())
