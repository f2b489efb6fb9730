"""What ONNX Runtime's CUDA provider needs: libraries, and a GPU it has code for."""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from graphopt.errors import UsageError

CUDA_PROVIDER: Final = "libonnxruntime_providers_cuda.so"
DRIVER: Final = "libcuda.so.1"
"""What the kernel driver brings, and no wheel."""

LAZY: Final = ("libcudnn.so.9",)
"""Loaded when a convolution first wants it: no NEEDED entry names it."""

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB = 1, 5
_FATBIN: Final = b"\x50\xed\x55\xba"
_PTX, _SASS = 1, 2


def needed(library: Path) -> tuple[str, ...]:
    """The DT_NEEDED entries of a 64-bit little-endian ELF file, in order.

    As "ELF-64 Object File Format" 1.5 lays it out. Raises UsageError for other files.
    """
    with library.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01" or len(head) < 64:
            raise UsageError("no 64-bit ELF library", where=str(library))
        offset, size, count = (
            *struct.unpack_from("<Q", head, 32),
            *struct.unpack_from("<HH", head, 54),
        )
        file.seek(offset)
        table = file.read(size * count)
        segments = [_segment(table, i * size) for i in range(count)]
        entries: list[tuple[int, int]] = []
        for kind, at, _, length in segments:
            if kind == _DYNAMIC:
                file.seek(at)
                dynamic = file.read(length)
                entries += struct.iter_unpack("<qQ", dynamic[: length // 16 * 16])
        strings = next((v for tag, v in entries if tag == _STRTAB), None)
        if strings is None:
            return ()
        start = _offset(strings, segments)
        names = []
        for tag, value in entries:
            if tag == _NEEDED:
                file.seek(start + value)
                names.append(file.read(256).split(b"\0")[0].decode())
        return tuple(names)


def _segment(table: bytes, at: int) -> tuple[int, int, int, int]:
    """Kind, place in the file, address, and length of one program header."""
    kind = struct.unpack_from("<I", table, at)[0]
    place, address, _, length = struct.unpack_from("<QQQQ", table, at + 8)
    return kind, place, address, length


def _offset(address: int, segments: Sequence[tuple[int, int, int, int]]) -> int:
    for kind, place, start, length in segments:
        if kind == _LOAD and start <= address < start + length:
            return place + address - start
    return address


def folders(search: Sequence[str] | None = None) -> Iterator[Path]:
    """Where wheels of NVIDIA put their libraries, for each folder of ``sys.path``."""
    for entry in sys.path if search is None else search:
        home = Path(entry, "nvidia")
        if home.is_dir():
            yield from sorted(home.glob("*/lib"))


def why_not_loaded(name: str, places: Sequence[Path] = ()) -> str | None:
    """Why a library does not load, by itself or from a place; None where it does.

    What loads stays loaded, so that others find it.
    """
    said = ""
    for candidate in (name, *(str(place / name) for place in places)):
        if candidate != name and not Path(candidate).exists():
            continue
        try:
            ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            said = said or str(error)
        else:
            return None
    return said


def unloadable(library: Path, search: Sequence[str] | None = None) -> dict[str, str]:
    """What a library needs and does not load, with the loader's words.

    The driver is left out: `why_no_gpu` asks for it.
    """
    places = tuple(folders(search))
    found = {
        name: why_not_loaded(name, places) for name in needed(library) if name != DRIVER
    }
    return {name: said for name, said in found.items() if said is not None}


class Code(NamedTuple):
    """Compute capabilities, as 90 for 9.0: of machine code, and of PTX."""

    sass: frozenset[int]
    ptx: frozenset[int]

    def is_for(self, capability: int) -> bool:
        """True where a GPU runs some of it.

        Machine code is for its major version from its minor one on; PTX is compiled for
        whatever is newer ("CUDA C++ Programming Guide", 3.1.2 and 3.1.3).
        """
        native = (c // 10 == capability // 10 and c <= capability for c in self.sass)
        return any(native) or any(c <= capability for c in self.ptx)

    def __str__(self) -> str:
        sass = ", ".join(f"sm_{c}" for c in sorted(self.sass))
        return ", ".join(filter(None, [sass, *(f"PTX {c}" for c in sorted(self.ptx))]))


def code_in(library: Path) -> Code:
    """Which GPUs a library has code for: the headers of its fat binaries."""
    found: dict[int, set[int]] = {_PTX: set(), _SASS: set()}
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        at = data.find(_FATBIN)
        while at >= 0:
            try:
                head, length = struct.unpack_from("<HQ", data, at + 6)
                place, end = at + head, at + head + length
                while place < end:
                    kind, _, head, size = struct.unpack_from("<HHIQ", data, place)
                    (capability,) = struct.unpack_from("<I", data, place + 28)
                    if kind not in found or not head:
                        break
                    found[kind].add(capability)
                    place += head + size
            except struct.error:  # the magic number by chance
                pass
            at = data.find(_FATBIN, at + 4)
    return Code(frozenset(found[_SASS]), frozenset(found[_PTX]))


class Gpu(NamedTuple):
    """A GPU by its name and compute capability, 90 for 9.0."""

    name: str
    capability: int


def gpus() -> list[Gpu]:
    """The GPUs that the driver shows; none where `why_no_gpu` gives a reason."""
    if why_no_gpu() is not None:
        return []
    driver = ctypes.CDLL(DRIVER)
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    found = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        version = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
            value = ctypes.c_int()
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            version.append(value.value)
        found.append(Gpu(name.value.decode(), 10 * version[0] + version[1]))
    return found


def why_no_gpu() -> str | None:
    """Why there is no GPU to use, in the driver's words; None where there is one."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"{DRIVER} is not there: no NVIDIA driver is installed"
    code = driver.cuInit(0)
    if code:
        return f"NVIDIA's driver finds no GPU (cuInit: error {code})"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "NVIDIA's driver finds no GPU"
