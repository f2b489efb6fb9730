"""Find what is broken in an installation: packages, libraries of CUDA, the GPU, JAX.

Metadata of what is installed is read, libraries are loaded; no runtime is imported, and
nothing is run. What a package needs is taken from its own metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from .errors import UsageError, nearest
from .lowering.ort import libraries
from .lowering.ort.kernels import recorded

State = Literal["ok", "absent", "doubtful", "broken"]

TARGETS: Final = ("onnx", "ort-cpu", "ort-cuda", "xla-cpu", "xla-cuda", "xla-tpu")

_ORT: Final = ("ort-cpu", "ort-cuda")
_XLA: Final = ("xla-cpu", "xla-cuda", "xla-tpu")

_EXTRAS: Final = {
    "cpu": ("ort-cpu",),
    "cuda": ("ort-cuda",),
    "jax": _XLA,
    "tpu": ("xla-tpu",),
}
"""Extras of graphopt that targets need."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    "absent" is not wrong unless a target in ``targets`` is asked for; "doubtful" may
    work. ``advice`` is what to do.
    """

    about: str
    state: State
    said: str
    targets: tuple[str, ...] = TARGETS
    advice: str = ""

    def is_wrong(self, asked: Sequence[str]) -> bool:
        """True where it keeps an asked target from running; without any, if broken."""
        if not asked:
            return self.state == "broken"
        concerned = any(target in self.targets for target in asked)
        return concerned and self.state in ("broken", "absent")


@dataclass(frozen=True)
class Machine:
    """What is looked at: packages in ``search`` (None: ``sys.path``), and the GPUs."""

    search: Sequence[str] | None = None
    gpus: Callable[[], list[libraries.Gpu]] = libraries.gpus
    why_no_gpu: Callable[[], str | None] = libraries.why_no_gpu
    found: dict[str, metadata.Distribution] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        where: dict[str, Any] = {} if self.search is None else {"path": self.search}
        for each in metadata.distributions(**where):
            name = each.metadata["Name"]
            if name:
                self.found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), each)

    def version(self, name: str) -> str | None:
        """The version of a package; None where it is not installed."""
        found = self.found.get(name)
        return None if found is None else found.version


def examine(machine: Machine | None = None) -> list[Finding]:
    """All that there is to say, of packages first."""
    machine = machine or Machine()
    return [
        *_packages(machine),
        *_onnxruntime(machine),
        *_cuda(machine),
        *_jax(machine),
    ]


def wanted(names: Sequence[str]) -> list[str]:
    """Targets without their devices. Raises UsageError for what is none."""
    found = [name.partition(":")[0] for name in names]
    for name in found:
        if name not in TARGETS:
            raise UsageError(f"unknown target {name!r}{nearest(name, TARGETS)}")
    return found


# --- packages -----------------------------------------------------------------------

_REQUIREMENT: Final = re.compile(
    r"([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?(?:;(.*))?"
)
_EXTRA: Final = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_CLAUSE: Final = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*([\w.*]+)")


def requirements(package: metadata.Distribution) -> Iterator[tuple[str, str, str]]:
    """What a package needs: name, versions, and the extra that asks for it, or ""."""
    for text in package.requires or ():
        matched = _REQUIREMENT.fullmatch(text.strip())
        if matched is not None:
            name, versions, condition = matched.groups(default="")
            extra = _EXTRA.search(condition)
            yield (
                re.sub(r"[-_.]+", "-", name).lower(),
                versions.strip(),
                extra[1] if extra else "",
            )


def satisfies(version: str, wanted: str) -> bool:
    """True where a version is one of those wanted, as in ``>=1.20,<2`` or ``==1.*``."""
    return all(
        _holds(_numbers(version), sign, bound)
        for sign, bound in _CLAUSE.findall(wanted)
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: 1.2.0rc1+x -> (1, 2, 0)."""
    matched = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, matched[0].split("."))) if matched else ()


def _holds(version: tuple[int, ...], sign: str, bound: str) -> bool:
    limit = _numbers(bound)
    if sign == "~=":
        return version >= limit and version[: len(limit) - 1] == limit[:-1]
    if bound.endswith(".*"):
        same = version[: len(limit)] == limit
        return same if sign == "==" else not same
    length = max(len(version), len(limit))
    a, b = (v + (0,) * (length - len(v)) for v in (version, limit))
    return {
        "==": a == b,
        "!=": a != b,
        "<=": a <= b,
        ">=": a >= b,
        "<": a < b,
        ">": a > b,
    }[sign]


def _packages(machine: Machine) -> Iterator[Finding]:
    """What graphopt itself asks for."""
    own = machine.found.get("graphopt")
    if own is None:
        said = "not installed as a package: what it needs is not known"
        yield Finding("graphopt", "doubtful", said, advice="pip install .")
        return
    yield Finding("graphopt", "ok", own.version)
    for name, versions, extra in requirements(own):
        if name == "graphopt" or (extra and extra not in _EXTRAS):
            continue
        if name == "onnxruntime" and "onnxruntime-gpu" in machine.found:
            continue  # that one has the CPU too
        targets = _EXTRAS[extra] if extra else TARGETS
        install = (
            f"pip install 'graphopt[{extra}]'" if extra else "pip install graphopt"
        )
        version = machine.version(name)
        if version is None:
            state: State = "absent" if extra else "broken"
            yield Finding(name, state, "not installed", targets, install)
        elif satisfies(version, versions):
            yield Finding(name, "ok", version, targets)
        else:
            said = f"{version}, but graphopt needs {versions}"
            advice = f"pip install -U '{name}{versions}'"
            yield Finding(name, "broken", said, targets, advice)


# --- ONNX Runtime -------------------------------------------------------------------


def _onnxruntime(machine: Machine) -> Iterator[Finding]:
    wheels = sorted(
        name
        for name in machine.found
        if name == "onnxruntime" or _WHEELS.fullmatch(name)
    )
    if len(wheels) > 1:
        both = " and ".join(f"{name} {machine.version(name)}" for name in wheels)
        said = f"{both} are installed: they share one folder, the last one wins"
        advice = f"pip uninstall {' '.join(wheels)}, then install one of them"
        yield Finding("ONNX Runtime", "broken", said, _ORT, advice)
    for name in wheels:
        found = machine.found[name]
        module = Path(str(found.locate_file("onnxruntime")))
        build = module / "capi" / "build_and_package_info.py"
        if not build.exists():
            said = f"{name} is listed, but its files are gone"
            advice = f"pip install --force-reinstall {name}"
            yield Finding("ONNX Runtime", "broken", said, _ORT, advice)
            continue
        told = dict(re.findall(r"^(\w+) = '([^']*)'", build.read_text(), re.M))
        there = told.get("package_name", name), told.get("__version__", found.version)
        if len(wheels) == 1 and there != (name, found.version):
            said = f"{name} {found.version} is listed, its files are {' '.join(there)}"
            advice = f"pip uninstall {name}, then install it again"
            yield Finding("ONNX Runtime", "broken", said, _ORT, advice)
    known = recorded("cpu")["version"]
    version = machine.version("onnxruntime")
    if version is not None and _numbers(version) > _numbers(known):
        said = f"kernels are recorded for {known}, those of {version} are read from it"
        yield Finding("kernel table", "ok", said, _ORT)


_WHEELS: Final = re.compile(
    r"onnxruntime-(gpu|directml|openvino|qnn|rocm|migraphx|training|webgpu)"
)


def _cuda(machine: Machine) -> Iterator[Finding]:
    """The CUDA provider: its libraries, the driver, the GPUs."""
    found = machine.found.get("onnxruntime-gpu")
    only = ("ort-cuda",)
    if found is not None:
        folder = Path(str(found.locate_file("onnxruntime"))) / "capi"
        library = folder / libraries.CUDA_PROVIDER
        if not library.exists():
            said = f"{libraries.CUDA_PROVIDER} is not in the wheel's folder"
            advice = "pip install --force-reinstall onnxruntime-gpu"
            yield Finding("CUDA provider", "broken", said, only, advice)
        else:
            yield from _libraries(machine, library, found.version)
            yield from _code(machine, library, found.version)
    no_gpu = machine.why_no_gpu()
    if no_gpu is not None:
        advice = "install NVIDIA's driver, or run where a GPU is"
        yield Finding("GPU", "absent", no_gpu, ("ort-cuda", "xla-cuda"), advice)


def _libraries(machine: Machine, library: Path, version: str) -> Iterator[Finding]:
    only = ("ort-cuda",)
    try:
        missing = libraries.unloadable(library, machine.search)
    except UsageError as error:
        advice = "pip install --force-reinstall onnxruntime-gpu"
        yield Finding("CUDA provider", "broken", str(error), only, advice)
        return
    major = _major(libraries.needed(library), "libcudart.so.")
    install = f"pip install 'onnxruntime-gpu[cuda,cudnn]=={version}'"
    here = [name for name in machine.found if name.startswith("nvidia-cuda-runtime")]
    for name, said in missing.items():
        advice = install
        if name.startswith("libcudart.so.") and here:
            others = ", ".join(f"{n} {machine.version(n)}" for n in here)
            said = f"{said}; it wants CUDA {major}, and {others} is here"
            if major == "13":
                advice += "; for CUDA 12: pip install 'onnxruntime-gpu<1.27'"
        yield Finding(name, "broken", said, only, advice)
    if not missing:
        said = f"its libraries load (CUDA {major or 'unknown'})"
        yield Finding("CUDA provider", "ok", said, only)
    places = tuple(libraries.folders(machine.search))
    for name in libraries.LAZY:
        why = libraries.why_not_loaded(name, places)
        if why is not None:
            said = f"{why}; the first convolution or norm that wants it would fail"
            yield Finding(name, "broken", said, only, install)


def _code(machine: Machine, library: Path, version: str) -> Iterator[Finding]:
    """Whether the wheel has code for the GPUs that are here."""
    only = ("ort-cuda",)
    some = machine.gpus()
    code = libraries.code_in(library) if some else None
    for gpu in some:
        named = f"{gpu.name} (sm_{gpu.capability})"
        if code is None or not (code.sass or code.ptx):
            said = f"{named}: what onnxruntime-gpu {version} has code for is not known"
            yield Finding("GPU", "doubtful", said, only)
        elif code.is_for(gpu.capability):
            yield Finding("GPU", "ok", named, ("ort-cuda", "xla-cuda"))
        else:
            said = f"{named}: onnxruntime-gpu {version} has code for {code} only"
            advice = (
                "take a wheel that has it, or build ONNX Runtime; or --target xla-cuda"
            )
            yield Finding("GPU", "broken", said, only, advice)


def _major(names: Sequence[str], start: str) -> str:
    return next((n.removeprefix(start) for n in names if n.startswith(start)), "")


# --- JAX ----------------------------------------------------------------------------


def _jax(machine: Machine) -> Iterator[Finding]:
    """Whether jax, jaxlib, its plugins and libtpu belong together."""
    jax = machine.found.get("jax")
    if jax is None:
        return
    jaxlib = machine.version("jaxlib")
    for name, versions, extra in requirements(jax):
        version = machine.version(name)
        if name == "jaxlib" and not extra:
            if version is None or not satisfies(version, versions):
                said = f"jax {jax.version} needs jaxlib {versions}, here is {version}"
                advice = f"pip install -U jax=={jax.version}"
                yield Finding("jaxlib", "broken", said, _XLA, advice)
        elif name == "libtpu" and extra == "tpu" and version is not None:
            if satisfies(version, versions):
                continue
            said = f"{version}, but jax {jax.version} is made with {versions}"
            advice = f"pip install 'jax[tpu]=={jax.version}'"
            yield Finding("libtpu", "doubtful", said, ("xla-tpu",), advice)
    plugins = [name for name in machine.found if _PLUGINS.fullmatch(name)]
    for name in sorted(plugins):
        version = machine.version(name)
        if jaxlib is not None and version != jaxlib:
            said = f"{version}, but jaxlib is {jaxlib}"
            advice = f"pip install -U '{name}=={jaxlib}'"
            yield Finding(name, "broken", said, ("xla-cuda",), advice)
        else:
            yield Finding(name, "ok", str(version), ("xla-cuda",))
    if not plugins:
        advice = "pip install 'jax[cuda13]'"
        said = "JAX has no plugin for CUDA"
        yield Finding("jax-cuda-plugin", "absent", said, ("xla-cuda",), advice)


_PLUGINS: Final = re.compile(r"jax-cuda\d+-(plugin|pjrt)")
