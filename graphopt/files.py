"""Files written whole or not at all, and never through a link."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from .errors import UsageError

if TYPE_CHECKING:
    from .weights import Tensor

_SMALL_ALIGNMENT = 64  # a cache line, and any vector register
_PAGE = 4096
_LARGE = 1 << 20  # from here on whole pages, so that a tensor can be mapped alone


class StagedFile:
    """A new file beside ``path`` that takes its place at `commit`.

    As a context manager it is removed again unless committed. Raises UsageError if
    ``path`` is a link, or anything else than a regular file, or in no folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file_named(path)
        refuse_special(self.path)
        require_folder(self.path)
        self._staged = self.path.with_name(
            f".{self.path.name[:100]}.{secrets.token_hex(8)}.tmp"
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self._staged, flags, 0o666)
        except OSError as error:
            raise UsageError(
                f"cannot write {self.path}: {error.strerror or error}"
            ) from None
        self.file: BinaryIO = os.fdopen(descriptor, "wb")
        self._open = True

    def commit(self, *, sync: bool = False) -> None:
        """Put the file in place at once; ``sync`` waits for the disk first."""
        self.file.flush()
        if sync:
            os.fsync(self.file.fileno())
        self.file.close()
        refuse_special(self.path)
        os.replace(self._staged, self.path)
        self._open = False

    def abort(self) -> None:
        """Remove the file; nothing happens after `commit`."""
        if self._open:
            self._open = False
            self.file.close()
            self._staged.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


def atomic_write(
    path: Path | str,
    content: bytes | Callable[[BinaryIO], object],
    *,
    sync: bool = False,
) -> None:
    """Write a whole file, from bytes or by a function that fills the open file.

    Readers see the old file or the new one, never a part; an error leaves the old
    one. Raises UsageError as `StagedFile` does.
    """
    with StagedFile(path) as staged:
        if callable(content):
            content(staged.file)
        else:
            staged.file.write(content)
        staged.commit(sync=sync)


class Placed(NamedTuple):
    """Where a tensor lies: ``location`` relative to the model, the rest in bytes."""

    location: str
    offset: int
    length: int


class ExternalWriter(StagedFile):
    """A file of external data in the making, one tensor after the other."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.size = 0

    def append(self, tensor: Tensor) -> Placed:
        """Write a tensor's packed bytes, in chunks, at the next aligned offset."""
        length = tensor.nbytes
        alignment = _PAGE if length >= _LARGE else _SMALL_ALIGNMENT
        offset = -(-self.size // alignment) * alignment
        self.file.write(bytes(offset - self.size))
        tensor.write_to(self.file)
        self.size = offset + length
        return Placed(self.path.name, offset, length)


def file_named(path: str | os.PathLike[str]) -> Path:
    """The file to write. Raises UsageError for a folder, be it there or not."""
    text = os.fsdecode(path)
    if text.endswith(("/", os.sep)) or os.path.isdir(text or "."):
        raise UsageError(
            f"cannot write {text!r}: it is a folder; name the file to write in it"
        )
    return Path(text)


def require_folder(path: Path) -> None:
    """Raises UsageError where the folder of a file to write is not there."""
    if not path.parent.is_dir():
        raise UsageError(
            f"cannot write {path}: there is no folder {path.parent}; make it first"
        )


def refuse_special(path: Path) -> None:
    if path.is_symlink():
        raise UsageError(
            f"cannot write {path}: it is a symbolic link; name the file it leads to"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot write {path}: it is not a regular file")
