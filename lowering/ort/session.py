"""One ONNX Runtime session: how it is made, what it is fed with, what runs it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from graphopt.errors import (
    BackendMissing,
    GraphoptError,
    InvalidModel,
    UnsupportedModel,
    UsageError,
)
from graphopt.exporter.storage import data_path
from graphopt.types import DType

from .. import Array, Executable
from .arena import given
from .binding import Binding
from .declared import hold_against
from .libraries import CUDA_PROVIDER, unloadable, why_no_gpu
from .processor import processor
from .recipe import PROVIDERS, Recipe

if TYPE_CHECKING:
    from .placement import Placement

LONGEST: Final = 400
"""Letters of the runtime's errors that are passed on; some hold whole models."""

EXECUTED: Final = "executed.onnx"
"""The name of the graph that the runtime executes, where that is traced."""

_FOLDER_ENTRY: Final = "session.model_external_initializers_file_folder_path"

_COUNTS_ENTRY: Final = "session.collect_node_memory_stats_to_file"

_RECORD_ENTRY: Final = "session.record_ep_graph_assignment_info"

_NO_MODEL: Final = ("INVALID_PROTOBUF", "No graph was found in the protobuf")
"""What the runtime says of bytes that are no model."""

_NARROW: Final = {
    f"tensor({name})": DType[ours]
    for name, ours in (
        ("bfloat16", "BF16"),
        ("float8e4m3fn", "F8E4M3FN"),
        ("float8e4m3fnuz", "F8E4M3FNUZ"),
        ("float8e5m2", "F8E5M2"),
        ("float8e5m2fnuz", "F8E5M2FNUZ"),
    )
}
"""Element types that NumPy lacks, and that the runtime's own `run` thus refuses."""


class Refused(UnsupportedModel, NotImplementedError):
    """ONNX Runtime does not take the model: an op, type or version that it lacks."""


class RunFailed(GraphoptError):
    """ONNX Runtime took the model and failed while it ran."""

    exit_code = 3


class CpuFallback(UserWarning):
    """What was asked to run on a device runs on the CPU, in part or as a whole."""


def runtime() -> Any:
    """The `onnxruntime` module. Raises BackendMissing with the install line."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            "ONNX Runtime is not installed; pip install 'graphopt[cpu]'",
            where=str(error),
        ) from None
    return onnxruntime


def why_no_cuda() -> str | None:
    """Why the installed runtime cannot use a GPU, and what to do; None where it can."""
    onnxruntime = runtime()
    then = "; graphopt doctor says more"
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return (
            f"the ONNX Runtime {onnxruntime.__version__} that is installed has no CUDA;"
            f" pip uninstall onnxruntime, then pip install 'graphopt[cuda]'{then}"
        )
    library = Path(onnxruntime.__file__).parent / "capi" / CUDA_PROVIDER
    missing = unloadable(library) if library.exists() else {}
    if missing:
        return f"ONNX Runtime's CUDA provider lacks {', '.join(missing)}{then}"
    no_gpu = why_no_gpu()
    return None if no_gpu is None else f"{no_gpu}{then}"


def made_here() -> dict[str, str]:
    """What a model that the runtime has written may be opened with: this, and here.

    Its layouts follow the width of vectors, its fusions the version.
    """
    return {"onnxruntime": runtime().__version__, "processor": processor()}


def check_made_for(made_for: Mapping[str, str]) -> None:
    """Raises BackendMissing where a recipe is for another version or processor."""
    here = made_here() if made_for else {}
    for name, value in made_for.items():
        if here.get(name) != value:
            raise BackendMissing(
                f"the model was made for {name} {value}, this is {here.get(name)};"
                " make it anew here"
            )


def session_options(*, optimized: bool = True, threads: int = 0) -> Any:
    """How every session is made; 0 threads: as many as the runtime likes."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not printed
    options.intra_op_num_threads = threads
    if threads:
        options.inter_op_num_threads = 1
    if not optimized:
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    return options


def with_recipe(options: Any, recipe: Recipe) -> None:
    """Set what a recipe says on ``SessionOptions``. Raises UsageError."""
    onnxruntime = runtime()
    enums = {
        "execution_mode": onnxruntime.ExecutionMode,
        "execution_order": onnxruntime.ExecutionOrder,
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
    }
    for name, value in recipe.session.items():
        try:
            if name in enums:
                value = getattr(enums[name], value)
            setattr(options, name, value)
        except (AttributeError, TypeError):
            raise UsageError(f"{value!r} is no {name} of ONNX Runtime") from None
    for name, value in recipe.config.items():
        options.add_session_config_entry(name, str(value))


class Session(Executable):
    """A model in ONNX Runtime, from its path, or from its bytes and the data's folder.

    ``recipe`` says how it is opened; by default, on the CPU. Where that asks for CUDA
    and nodes end on the CPU for want of a kernel, or all of them for want of CUDA, a
    warning says so, `CpuFallback`; with ``strict``, or where warnings are errors,
    BackendMissing does. ``traces`` is a folder for what the runtime makes of the model,
    and the times of its nodes; ``executed`` is a file for the former alone, ``counts``
    one for what nodes allocate.

    Raises OSError where the file cannot be read, InvalidModel where it is no model,
    BackendMissing, Refused where the runtime does not take the model, and UsageError
    for a recipe that this runtime does not understand.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        *,
        folder: str | os.PathLike[str] | None = None,
        optimized: bool = True,
        threads: int = 0,
        recipe: Recipe | None = None,
        strict: bool = False,
        traces: str | os.PathLike[str] | None = None,
        executed: str | os.PathLike[str] | None = None,
        counts: str | os.PathLike[str] | None = None,
    ) -> None:
        onnxruntime = runtime()
        self.recipe = recipe or Recipe()
        check_made_for(self.recipe.made_for)
        options = session_options(optimized=optimized, threads=threads)
        with_recipe(options, self.recipe)
        if threads:
            options.intra_op_num_threads = threads
        if folder is not None:
            options.add_session_config_entry(_FOLDER_ENTRY, os.fspath(folder))
        if traces is not None:
            _trace(options, Path(traces))
        if executed is not None:
            _write(options, Path(executed))
        if counts is not None:
            options.add_session_config_entry(_COUNTS_ENTRY, os.fspath(counts))
        if not isinstance(model, bytes):
            model = os.fspath(model)
            with open(model, "rb"):
                pass  # which says why it cannot be read
        if self.recipe.provider != "cpu":
            options.add_session_config_entry(_RECORD_ENTRY, "1")
            _preload(onnxruntime)
        there = onnxruntime.get_available_providers()
        providers = [each for each in self.recipe.providers if each[0] in there]
        why = ""
        with given(onnxruntime, options, self.recipe.arena):
            try:
                self.session = _opened(model, options, providers)
            except Refused as error:
                if self.recipe.provider == "cpu":
                    raise
                why = error.message
                self.session = _opened(model, options, Recipe().providers)
        self.version: str = onnxruntime.__version__
        if said := self._fallback(why):
            try:
                if strict:
                    raise BackendMissing(said)
                warnings.warn(said, CpuFallback, stacklevel=2)
            except CpuFallback:  # where Python has this warning for an error
                raise BackendMissing(said) from None
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.optional_names = tuple(
            i.name for i in self.session.get_overridable_initializers()
        )
        self.output_names = tuple(o.name for o in self.session.get_outputs())
        self._needed = frozenset(self.input_names)
        self._known = self._needed.union(self.optional_names)
        self.narrow = any(o.type in _NARROW for o in self.session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = inputs.keys()
        if not self._needed <= given <= self._known:
            hold_against(self.session, inputs)
        narrow = self.narrow or any(map(_is_narrow, inputs.values()))
        try:
            if self._binding is not None:
                results: Sequence[Array] = self._binding(inputs)
            elif narrow:
                fed = {name: value_of(array) for name, array in inputs.items()}
                values = self.session.run_with_ort_values(None, fed, self.run_options)
                results = [array_of(value) for value in values]
            else:
                results = self.session.run(None, dict(inputs), self.run_options)
        except UsageError:
            raise
        except Exception as error:
            hold_against(self.session, inputs)  # of which the runtime says too little
            raise RunFailed(f"ONNX Runtime failed: {words_of(error)}") from None
        return dict(zip(self.output_names, results, strict=True))

    def used(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            "target": f"ort-{self.recipe.provider}",
            "runtime": "onnxruntime",
            "version": self.version,
            "providers": self.session.get_providers(),
        }
        if self.placement is not None:
            found["placement"] = self.placement.counts()
        return found

    @cached_property
    def placement(self) -> Placement | None:
        """Which provider each node runs on; None on the CPU, or if it is not known."""
        if self.recipe.provider == "cpu":
            return None
        from .placement import Placement

        return Placement.of(self.session)

    def _fallback(self, why: str) -> str | None:
        """What runs on the CPU against the recipe, in words; None for nothing.

        ``why`` is what the runtime said when it was to open the model as it should.
        """
        wanted = self.recipe.provider
        if wanted == "cpu":
            return None
        if PROVIDERS[wanted] not in self.session.get_providers():
            why = why_no_cuda() or why or "ONNX Runtime does not say why"
            return f"all of the model runs on the CPU: {why}"
        from .placement import said_of

        strays = (
            self.placement.strays(wanted, self.recipe.fallback_kinds)
            if self.placement is not None
            else []
        )
        if not strays:
            return None
        return (
            f"{len(strays)} nodes run on the CPU, for CUDA has no kernel for them: "
            + ", ".join(said_of(strays))
        )

    @cached_property
    def _binding(self) -> Binding | None:
        """The buffers that a captured CUDA graph reads; None where there is none."""
        if self.recipe.options.get("enable_cuda_graph") != "1":
            return None
        if PROVIDERS["cuda"] not in self.session.get_providers():
            return None
        index = int(self.recipe.options.get("device_id", 0))
        return Binding(self.session, "cuda", index)

    @cached_property
    def run_options(self) -> Any:
        """The options of each run that the recipe has; None where it has none."""
        if not self.recipe.run:
            return None
        options = runtime().RunOptions()
        for name, value in self.recipe.run.items():
            options.add_run_config_entry(name, str(value))
        return options


def _trace(options: Any, folder: Path) -> None:
    """Have the runtime write its times, and the graph that it executes, to a folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "times")
    _write(options, folder / EXECUTED)


def _write(options: Any, path: Path) -> None:
    """Have the runtime write the graph that it executes, its weights in a file beside.

    That is called as by our exporter, and must not be there yet.
    """
    options.optimized_model_filepath = str(path)
    prefix = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{prefix}_file_name", data_path(path).name)
    options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")


def _opened(
    model: bytes | str, options: Any, providers: list[tuple[str, dict[str, str]]]
) -> Any:
    """An ``InferenceSession``; on an error it tries no other providers by itself."""
    try:
        return runtime().InferenceSession(
            model, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # the runtime's errors have no base of their own
        if any(said in str(error) for said in _NO_MODEL):
            where = model if isinstance(model, str) else None
            raise InvalidModel("not an ONNX model", where=where) from None
        raise Refused(f"ONNX Runtime refuses the model: {words_of(error)}") from None


def _preload(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from their wheels, where there are any; it prints, if not."""
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _is_narrow(array: Array) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.type.__module__ == "ml_dtypes"


def value_of(array: Array) -> Any:
    """An OrtValue of an array, narrow element types included."""
    values = runtime().OrtValue
    if not _is_narrow(array):
        return values.ortvalue_from_numpy(np.ascontiguousarray(array))
    plain = np.uint16 if array.dtype.itemsize == 2 else np.uint8
    return values.ortvalue_from_numpy_with_onnx_type(
        np.ascontiguousarray(array).view(plain), DType.of(array.dtype).value
    )


def array_of(value: Any) -> Array:
    """The array of an OrtValue, narrow element types included."""
    dtype = _NARROW.get(value.data_type())
    if dtype is None:
        return value.numpy()
    size = value.tensor_size_in_bytes()
    memory = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    return np.frombuffer(memory, dtype.numpy).reshape(value.shape()).copy()


def words_of(error: Exception) -> str:
    """The runtime's own words, without its codes."""
    text = str(error).strip().splitlines()
    first = text[0] if text else type(error).__name__
    first = first.removeprefix("[ONNXRuntimeError] : ").rstrip(".")
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
