"""One ONNX Runtime session: how it is made, and what it is fed with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from graphopt.errors import BackendMissing, GraphoptError, UnsupportedModel, UsageError
from graphopt.types import DType

from .. import Array, Executable

PROVIDER: Final = "CPUExecutionProvider"

LONGEST: Final = 400
"""Letters of the runtime's errors that are passed on; some hold whole models."""

_FOLDER_ENTRY: Final = "session.model_external_initializers_file_folder_path"

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


class Session(Executable):
    """A model in ONNX Runtime, from its path, or from its bytes and the data's folder.

    Raises BackendMissing, and Refused where the runtime does not take the model.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        *,
        folder: str | os.PathLike[str] | None = None,
        optimized: bool = True,
        threads: int = 0,
    ) -> None:
        onnxruntime = runtime()
        options = session_options(optimized=optimized, threads=threads)
        if folder is not None:
            options.add_session_config_entry(_FOLDER_ENTRY, os.fspath(folder))
        if not isinstance(model, bytes):
            model = os.fspath(model)
        try:
            self.session = onnxruntime.InferenceSession(
                model, options, providers=[PROVIDER]
            )
        except Exception as error:  # the runtime's errors have no base of their own
            raise Refused(f"ONNX Runtime refuses the model: {_said(error)}") from None
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.optional_names = tuple(
            i.name for i in self.session.get_overridable_initializers()
        )
        self.output_names = tuple(o.name for o in self.session.get_outputs())
        self.narrow = any(o.type in _NARROW for o in self.session.get_outputs())
        self.version: str = onnxruntime.__version__

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._check_names(inputs)
        narrow = self.narrow or any(map(_is_narrow, inputs.values()))
        try:
            if narrow:
                fed = {name: self._value(array) for name, array in inputs.items()}
                values = self.session.run_with_ort_values(None, fed)
                results: Sequence[Array] = [_array(value) for value in values]
            else:
                results = self.session.run(None, dict(inputs))
        except Exception as error:
            raise RunFailed(f"ONNX Runtime failed: {_said(error)}") from None
        return dict(zip(self.output_names, results, strict=True))

    def used(self) -> Mapping[str, Any]:
        return {
            "target": "ort-cpu",
            "runtime": "onnxruntime",
            "version": self.version,
            "providers": self.session.get_providers(),
        }

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        known = (*self.input_names, *self.optional_names)
        for name in inputs:
            if name not in known:
                listed = ", ".join(map(repr, known)) or "no inputs"
                raise UsageError(f"no input is called {name!r}; the model has {listed}")
        for name in self.input_names:
            if name not in inputs:
                raise UsageError(f"input {name!r} is missing")

    def _value(self, array: Array) -> Any:
        values = runtime().OrtValue
        if not _is_narrow(array):
            return values.ortvalue_from_numpy(np.ascontiguousarray(array))
        plain = np.uint16 if array.dtype.itemsize == 2 else np.uint8
        return values.ortvalue_from_numpy_with_onnx_type(
            np.ascontiguousarray(array).view(plain), DType.of(array.dtype).value
        )


def _is_narrow(array: Array) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.type.__module__ == "ml_dtypes"


def _array(value: Any) -> Array:
    """The array of an OrtValue, narrow element types included."""
    dtype = _NARROW.get(value.data_type())
    if dtype is None:
        return value.numpy()
    size = value.tensor_size_in_bytes()
    memory = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    return np.frombuffer(memory, dtype.numpy).reshape(value.shape()).copy()


def _said(error: Exception) -> str:
    """The runtime's own words, without its codes."""
    text = str(error).strip().splitlines()
    first = text[0] if text else type(error).__name__
    first = first.removeprefix("[ONNXRuntimeError] : ").rstrip(".")
    return first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
