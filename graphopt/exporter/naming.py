"""Names for what is written: suggested ones where they are free, else fresh ones."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """The names taken in one scope. Those of scopes around it are taken, too.

    Bodies side by side may use the same names; no name ever shadows another. The
    names around a scope must all be given before it opens.
    """

    __slots__ = ("_around", "_next", "_taken")

    def __init__(self, around: Names | None = None, taken: Iterable[str] = ()) -> None:
        self._taken: set[str] = set(taken)
        self._around: tuple[set[str], ...] = ()
        if around is not None:
            self._around = (*around._around, around._taken)
        self._next: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken or any(name in names for names in self._around)

    def take(self, wanted: str) -> str:
        """``wanted`` itself, or with the first number behind it that is free."""
        if wanted and wanted not in self:
            self._taken.add(wanted)
            return wanted
        return self.fresh(wanted)

    def fresh(self, stem: str) -> str:
        """``stem_0``, or the first number that is free."""
        number = self._next.get(stem, 0)
        while (name := f"{stem}_{number}") in self:
            number += 1
        self._next[stem] = number + 1
        self._taken.add(name)
        return name
