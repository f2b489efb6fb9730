"""What is broken in an installation is found: faked packages, libraries and GPUs."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Command

from graphopt import doctor
from graphopt.doctor import Finding, Machine, examine, satisfies, wanted
from graphopt.errors import UsageError
from graphopt.lowering.ort import libraries
from graphopt.lowering.ort.libraries import Code, Gpu, code_in, needed, unloadable

NO_DRIVER = "libcuda.so.1 is not there: no NVIDIA driver is installed"
H100 = Gpu("NVIDIA H100", 90)


def package(home: Path, name: str, version: str, *requires: str) -> None:
    """Metadata of an installed package."""
    folder = home / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


def runtime(home: Path, name: str, version: str, *, files: str = "") -> Path:
    """A wheel of ONNX Runtime; its folder of libraries."""
    package(home, name, version)
    folder = home / "onnxruntime" / "capi"
    folder.mkdir(parents=True, exist_ok=True)
    told = f"package_name = '{files or name}'\n__version__ = '{version}'\n"
    (folder / "build_and_package_info.py").write_text(told)
    return folder


def library(
    path: Path, names: Sequence[str], code: Sequence[tuple[int, int]] = ()
) -> None:
    """An ELF file that needs others, with fat binaries: (kind, compute capability)."""
    strings, offsets = b"\0", []
    for name in names:
        offsets.append(len(strings))
        strings += name.encode() + b"\0"
    headers, base = 2, 0x1000
    at = 64 + 56 * headers
    entries = [(1, offset) for offset in offsets]
    size = 16 * (len(entries) + 2)
    entries += [(5, base + at + size), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    end = at + size + len(strings)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, end, end, 4096)
    shown = struct.pack("<IIQQQQQQ", 2, 6, at, base + at, base + at, size, size, 8)
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf += struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, headers, 0, 0, 0
    )
    body = b""
    for kind, capability in code:
        part = struct.pack("<HHIQIIHHI", kind, 0x101, 64, 8, 0, 0, 0, 0, capability)
        body += part.ljust(64, b"\0") + bytes(8)
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body if code else b""
    path.write_bytes(elf + load + shown + dynamic + strings + fat)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    package(tmp_path, "graphopt", "0.1.0", "numpy>=2.0", 'jax>=0.8; extra == "jax"')
    package(tmp_path, "numpy", "2.1.0")
    return tmp_path


def findings(
    home: Path, *, gpus: Sequence[Gpu] = (), driver: str | None = NO_DRIVER
) -> dict[str, Finding]:
    """What is found, by what it is about; of several, the last wrong one."""
    machine = Machine([str(home)], lambda: list(gpus), lambda: None if gpus else driver)
    found: dict[str, Finding] = {}
    for each in examine(machine):
        if each.about not in found or each.state != "ok":
            found[each.about] = each
    return found


# --- packages -----------------------------------------------------------------------


def test_all_is_well(home: Path) -> None:
    found = findings(home)
    assert {f.about: f.state for f in found.values()} == {
        "graphopt": "ok",
        "numpy": "ok",
        "jax": "absent",
        "GPU": "absent",
    }
    assert not any(f.is_wrong([]) for f in found.values())


def test_what_is_absent_is_wrong_where_it_is_asked_for(home: Path) -> None:
    found = findings(home)
    assert found["jax"].is_wrong(["xla-cpu"])
    assert not found["jax"].is_wrong(["ort-cpu"])
    assert found["jax"].advice == "pip install 'graphopt[jax]'"
    assert found["GPU"].is_wrong(["ort-cuda"])


def test_a_version_below_the_floor(home: Path) -> None:
    package(home, "jax", "0.7.2")
    found = findings(home)["jax"]
    assert (found.state, found.said) == ("broken", "0.7.2, but graphopt needs >=0.8")
    assert found.is_wrong([])


def test_a_package_that_all_need_is_gone(tmp_path: Path) -> None:
    package(tmp_path, "graphopt", "0.1.0", "numpy>=2.0")
    assert findings(tmp_path)["numpy"].is_wrong([])


def test_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    assert findings(tmp_path)["graphopt"].state == "doubtful"


@pytest.mark.parametrize(
    ("version", "spec", "fits"),
    [
        ("1.20", ">=1.20", True),
        ("1.20.0", "==1.20", True),
        ("1.9", ">=1.20", False),
        ("0.10.2", "<=0.10.2,>=0.10.1", True),
        ("0.10.3", "<=0.10.2,>=0.10.1", False),
        ("0.0.52", "==0.0.42.*", False),
        ("0.0.42.1", "==0.0.42.*", True),
        ("13.1.5", "~=13.0", True),
        ("14.0", "~=13.0", False),
        ("2.0", "!=2.0", False),
        ("2.0", "<2", False),
        ("2.0.1", ">2", True),
        ("1.0rc1", "", True),
    ],
)
def test_versions(version: str, spec: str, fits: bool) -> None:
    assert satisfies(version, spec) == fits


# --- ONNX Runtime -------------------------------------------------------------------


def test_two_wheels_in_one_folder(home: Path) -> None:
    runtime(home, "onnxruntime", "1.32.0")
    library(
        runtime(home, "onnxruntime-gpu", "1.31.1") / libraries.CUDA_PROVIDER,
        ["libm.so.6"],
    )
    found = findings(home)["ONNX Runtime"]
    assert found.state == "broken"
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1" in found.said
    assert found.advice.startswith("pip uninstall onnxruntime onnxruntime-gpu")


def test_files_of_another_wheel(home: Path) -> None:
    runtime(home, "onnxruntime", "1.32.0", files="onnxruntime-gpu")
    said = findings(home)["ONNX Runtime"].said
    assert said == "onnxruntime 1.32.0 is listed, its files are onnxruntime-gpu 1.32.0"


def test_files_that_are_gone(home: Path) -> None:
    package(home, "onnxruntime", "1.32.0")
    assert "its files are gone" in findings(home)["ONNX Runtime"].said


# --- CUDA ---------------------------------------------------------------------------


@pytest.fixture
def cuda(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a GPU wheel whose provider library the test makes."""
    monkeypatch.setattr(libraries, "LAZY", ())
    return runtime(home, "onnxruntime-gpu", "1.31.1")


def test_libraries_that_load(home: Path, cuda: Path) -> None:
    library(cuda / libraries.CUDA_PROVIDER, ["libm.so.6", "libcuda.so.1"])
    assert findings(home)["CUDA provider"].state == "ok"


def test_each_library_that_does_not_load_is_named(home: Path, cuda: Path) -> None:
    library(cuda / libraries.CUDA_PROVIDER, ["libnothere.so.1", "libm.so.6"])
    found = findings(home)["libnothere.so.1"]
    assert found.state == "broken"
    assert "cannot open shared object file" in found.said
    assert found.advice == "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"


def test_the_wrong_major_version_of_cuda(home: Path, cuda: Path) -> None:
    library(cuda / libraries.CUDA_PROVIDER, ["libcudart.so.99"])
    package(home, "nvidia-cuda-runtime-cu12", "12.8.90")
    found = findings(home)["libcudart.so.99"]
    assert (
        "it wants CUDA 99, and nvidia-cuda-runtime-cu12 12.8.90 is here" in found.said
    )


def test_libraries_that_wheels_of_nvidia_bring(home: Path, cuda: Path) -> None:
    """They lie where the loader does not look by itself."""
    library(cuda / libraries.CUDA_PROVIDER, ["libnothere.so.1"])
    folder = home / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    (folder / "libnothere.so.1").write_text("no library")
    assert list(libraries.folders([str(home)])) == [folder]
    why = libraries.why_not_loaded("libnothere.so.1", [folder])
    assert why is not None
    (real,) = [
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libm.so.6" in line
    ][:1]
    (folder / "libnothere.so.1").unlink()
    (folder / "libnothere.so.1").symlink_to(real)
    assert libraries.why_not_loaded("libnothere.so.1", [folder]) is None
    assert unloadable(cuda / libraries.CUDA_PROVIDER, [str(home)]) == {}


def test_cudnn_that_shows_late(
    home: Path, cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "LAZY", ("libnocudnn.so.9",))
    library(cuda / libraries.CUDA_PROVIDER, ["libm.so.6"])
    assert "the first convolution" in findings(home)["libnocudnn.so.9"].said


def test_a_wheel_without_its_provider(home: Path, cuda: Path) -> None:
    assert "is not in the wheel's folder" in findings(home)["CUDA provider"].said


def test_a_provider_that_is_no_library(home: Path, cuda: Path) -> None:
    (cuda / libraries.CUDA_PROVIDER).write_text("broken")
    assert "no 64-bit ELF library" in findings(home)["CUDA provider"].said


def test_a_gpu_that_the_wheel_has_code_for(home: Path, cuda: Path) -> None:
    library(cuda / libraries.CUDA_PROVIDER, ["libm.so.6"], [(2, 80), (2, 90)])
    found = findings(home, gpus=[H100])["GPU"]
    assert (found.state, found.said) == ("ok", "NVIDIA H100 (sm_90)")


def test_a_gpu_that_the_wheel_has_no_code_for(home: Path, cuda: Path) -> None:
    """onnxruntime-gpu 1.31.1 has none for B200, nor PTX."""
    code = [(2, c) for c in (75, 80, 86, 89, 90, 120)]
    library(cuda / libraries.CUDA_PROVIDER, ["libm.so.6"], code)
    found = findings(home, gpus=[Gpu("NVIDIA B200", 100)])["GPU"]
    assert found.state == "broken"
    assert "has code for sm_75, sm_80, sm_86, sm_89, sm_90, sm_120 only" in found.said


def test_a_library_whose_code_is_not_known(home: Path, cuda: Path) -> None:
    library(cuda / libraries.CUDA_PROVIDER, ["libm.so.6"])
    assert findings(home, gpus=[H100])["GPU"].state == "doubtful"


def test_which_gpus_run_which_code(tmp_path: Path) -> None:
    sass, ptx = Code(frozenset([80]), frozenset()), Code(frozenset(), frozenset([75]))
    assert [sass.is_for(c) for c in (75, 80, 89, 90)] == [False, True, True, False]
    assert [ptx.is_for(c) for c in (70, 75, 100)] == [False, True, True]
    library(tmp_path / "a.so", [], [(2, 80), (1, 90)])
    assert code_in(tmp_path / "a.so") == Code(frozenset([80]), frozenset([90]))
    assert str(code_in(tmp_path / "a.so")) == "sm_80, PTX 90"


def test_what_a_library_needs(tmp_path: Path) -> None:
    library(tmp_path / "a.so", ["libm.so.6", "libcuda.so.1"])
    assert needed(tmp_path / "a.so") == ("libm.so.6", "libcuda.so.1")
    assert unloadable(tmp_path / "a.so", []) == {}


# --- JAX ----------------------------------------------------------------------------


def jax(home: Path, jaxlib: str = "0.10.2") -> None:
    needs = ("jaxlib<=0.10.2,>=0.10.1", 'libtpu==0.0.42.*; extra == "tpu"')
    package(home, "jax", "0.10.2", *needs)
    package(home, "jaxlib", jaxlib)


def test_jax_and_jaxlib_belong_together(home: Path) -> None:
    jax(home)
    assert "jaxlib" not in findings(home)


def test_jax_with_another_jaxlib(home: Path) -> None:
    jax(home, "0.9.0")
    found = findings(home)["jaxlib"]
    assert found.state == "broken"
    assert "needs jaxlib <=0.10.2,>=0.10.1, here is 0.9.0" in found.said


def test_jax_with_another_libtpu(home: Path) -> None:
    jax(home)
    package(home, "libtpu", "0.0.52")
    found = findings(home)["libtpu"]
    assert (found.state, found.is_wrong(["xla-tpu"])) == ("doubtful", False)


def test_a_plugin_of_another_version(home: Path) -> None:
    jax(home)
    package(home, "jax-cuda13-plugin", "0.9.1")
    found = findings(home)["jax-cuda13-plugin"]
    assert (found.state, found.said) == ("broken", "0.9.1, but jaxlib is 0.10.2")
    assert found.is_wrong(["xla-cuda"])


# --- the command --------------------------------------------------------------------


@pytest.fixture
def faked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    machine = Machine([str(home)], lambda: [], lambda: NO_DRIVER)
    monkeypatch.setattr(doctor, "Machine", lambda: machine)
    return home


@pytest.mark.usefixtures("faked")
def test_the_command(command: Command) -> None:
    code, out, _ = command("doctor")
    assert (code, out.splitlines()[-1]) == (0, "all is well")
    code, out, _ = command("doctor", "ort-cuda:0")
    assert (code, out.splitlines()[-1]) == (5, "1 wrong")
    assert f"WRONG     GPU       {NO_DRIVER}" in out


@pytest.mark.usefixtures("faked")
def test_the_command_as_json(command: Command) -> None:
    code, out, _ = command("doctor", "xla-cpu", "--json")
    said = json.loads(out)
    assert (code, said["well"]) == (5, False)
    assert [f["about"] for f in said["findings"] if f["wrong"]] == ["jax"]


def test_unknown_targets() -> None:
    assert wanted(["xla-tpu:v5e:2x2"]) == ["xla-tpu"]
    with pytest.raises(UsageError, match="did you mean 'ort-cuda'"):
        wanted(["ort-cudda"])


def test_this_machine_is_looked_at() -> None:
    found = {f.about: f for f in examine()}
    assert found["numpy"].state == "ok"
    assert "GPU" in found
