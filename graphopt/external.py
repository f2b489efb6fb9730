"""External data of untrusted models: found safely, mapped late, never read by default.

A model may only name files beneath its own folder. The path is opened folder by folder
without following links, and must end at a regular file with a single hard link: a link
could lead anywhere (CVE-2022-25882, CVE-2024-27318, CVE-2026-34446, CVE-2026-34447).
Where the system cannot open relative to a folder (Windows), the resolved path is
compared instead, which leaves a race to whoever can write to the folder meanwhile.

Maps are shared by a file's tensors and go with the last array that shows them.
Whoever shortens a file while it is mapped kills the process (SIGBUS), as everywhere.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import re
import stat
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .encoding import CHUNK
from .errors import InvalidModel

_OPENS_RELATIVE = (
    os.open in os.supports_dir_fd
    and hasattr(os, "O_NOFOLLOW")
    and hasattr(os, "O_DIRECTORY")
)
_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_COPY_IT = "copy the model's folder with links resolved (cp -rL)"


class _Identity(NamedTuple):
    """What makes a file the same one when it is opened again."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class ExternalFile:
    """A data file beneath a model's folder; made by `open_external`, holds it not open.

    ``size`` is in bytes. Every later access opens the file again, as carefully as the
    first time, and raises InvalidModel if it is no longer the same one.
    """

    folder: Path
    location: str
    identity: _Identity
    _map: list[weakref.ref[mmap.mmap]] = field(default_factory=list, repr=False)

    @property
    def size(self) -> int:
        return self.identity.size

    @property
    def path(self) -> Path:
        return self.folder / self.location

    def open(self) -> io.FileIO:
        """An unbuffered reader at offset 0."""
        file, identity = _open_regular(self.folder, self.location)
        if identity != self.identity:
            file.close()
            raise InvalidModel(
                f"external data file {_show(self.location)} changed since the model "
                "was loaded; load the model again"
            )
        return file

    def map(self) -> mmap.mmap:
        """The whole file, read-only; alive as long as a view of it is."""
        if self._map and (shared := self._map[0]()) is not None:
            return shared
        with self.open() as file:
            fresh = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map[:] = [weakref.ref(fresh)]
        return fresh


_files: weakref.WeakValueDictionary[tuple[Path, str, _Identity], ExternalFile]
_files = weakref.WeakValueDictionary()


def open_external(folder: Path, location: str) -> ExternalFile:
    """Find the data file at ``location`` (relative, POSIX) beneath ``folder``.

    Nothing is read. Raises InvalidModel if the path leaves the folder, passes a link,
    or does not end at a regular file with one hard link.
    """
    folder = Path(os.path.abspath(folder))
    file, identity = _open_regular(folder, location)
    file.close()
    key = (folder, location, identity)
    known = _files.get(key)
    if known is None:
        known = _files[key] = ExternalFile(folder, location, identity)
    return known


@dataclass(frozen=True, slots=True)
class ExternalSlice:
    """``length`` bytes of a data file from ``offset``, which lie within it."""

    file: ExternalFile
    offset: int
    length: int

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for slices that hold the same bytes of the same file."""
        return (*self.file.identity, self.offset, self.length)

    def view(self) -> memoryview:
        """The bytes in the file's map: pages of the file, no private memory."""
        if not self.length:
            return memoryview(b"")
        return memoryview(self.file.map())[self.offset : self.offset + self.length]

    def read(self) -> bytes:
        """The bytes as a private copy."""
        return b"".join(bytes(chunk) for chunk in self.chunks())

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in parts of at most `CHUNK`; each lives until the next is asked."""
        buffer = memoryview(bytearray(min(CHUNK, self.length)))
        left = self.length
        with self.file.open() as file:
            file.seek(self.offset)
            while left:
                part = buffer[: min(left, CHUNK)]
                filled = 0
                while filled < len(part):
                    got = file.readinto(part[filled:])
                    if not got:
                        name = _show(self.file.location)
                        raise InvalidModel(f"external data file {name} ended early")
                    filled += got
                yield part
                left -= len(part)


def slice_of(
    entries: Mapping[str, str], folder: Path | None, length: int
) -> ExternalSlice:
    """The slice that a tensor's ``external_data`` entries name.

    ``length`` is what dims and element type need. `checksum` and `basepath` are legal
    keys without effect, as in onnx. Raises InvalidModel.
    """
    if unknown := sorted(entries.keys() - _KEYS):
        raise InvalidModel(f"unknown external data key {_show(unknown[0])}")
    if "location" not in entries:
        raise InvalidModel("external data without a location")
    offset = _number(entries, "offset", 0)
    stated = _number(entries, "length", length)
    if stated != length:
        raise InvalidModel(
            f"external data has {stated} bytes, dims and element type need {length}"
        )
    if folder is None:
        raise InvalidModel(
            "external data in a model that was not loaded from a folder; "
            "load it by its path"
        )
    file = open_external(folder, entries["location"])
    if offset + length > file.size:
        raise InvalidModel(
            f"external data ends at byte {offset + length}, but "
            f"{_show(file.location)} has {file.size} bytes"
        )
    return ExternalSlice(file, offset, length)


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise InvalidModel(
            f"external data {key} must be a number of bytes, not {_show(text)}"
        )
    return int(text)


def _open_regular(folder: Path, location: str) -> tuple[io.FileIO, _Identity]:
    parts = _parts(location)
    try:
        if _OPENS_RELATIVE:
            descriptor = _open_beneath(folder, parts)
        else:
            descriptor = _open_resolved(folder, parts)
    except OSError as error:
        raise InvalidModel(
            f"external data file {_show(location)}: {_reason(error)}"
        ) from None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        identity = _Identity(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        )
        return io.FileIO(descriptor, "rb"), identity
    os.close(descriptor)
    trouble = "is not a regular file"
    if stat.S_ISREG(found.st_mode):
        trouble = f"has {found.st_nlink} hard links, one is safe; {_COPY_IT}"
    raise InvalidModel(f"external data file {_show(location)} {trouble}")


def _parts(location: str) -> list[str]:
    parts = [part for part in location.split("/") if part not in ("", ".")]
    foreign = os.sep != "/" and any(mark in location for mark in "\\:")
    if location.startswith("/") or "\0" in location or foreign:
        trouble = "must be relative to the model's folder"
    elif ".." in parts:
        trouble = "leaves the model's folder"
    elif not parts:
        trouble = "names no file"
    else:
        return parts
    raise InvalidModel(f"external data path {_show(location)} {trouble}")


def _open_beneath(folder: Path, parts: list[str]) -> int:
    into = os.O_RDONLY | os.O_DIRECTORY
    directory = os.open(folder, into)
    try:
        for part in parts[:-1]:
            inner = os.open(part, into | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(parts[-1], flags, dir_fd=directory)
    finally:
        os.close(directory)


def _open_resolved(folder: Path, parts: list[str]) -> int:
    expected = os.path.join(os.path.realpath(folder), *parts)
    if os.path.realpath(expected) != expected:
        raise OSError(errno.ELOOP, "link")
    return os.open(expected, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "not found in the model's folder"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return f"a part of its path is a link or no folder; {_COPY_IT}"
    return error.strerror or str(error)


def _show(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
