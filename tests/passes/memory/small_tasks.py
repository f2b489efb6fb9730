"""Small problems of order, and what is true of them, said plainly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from hypothesis import strategies as st

from graphopt.passes.memory import Task, Tasks

SIZES = st.integers(0, 9)


def some(numbers: Sequence[int], most: int) -> st.SearchStrategy[frozenset[int]]:
    """A few of the numbers, which may be none."""
    if not numbers:
        return st.just(frozenset())
    return st.frozensets(st.sampled_from(numbers), max_size=most)


@st.composite
def problems(draw: st.DrawFn, most: int) -> Tasks:
    """Tasks that read what others made, or what is given; in place now and then.

    They are numbered in no order in which they can run.
    """
    count = draw(st.integers(1, most))
    sizes = draw(st.lists(SIZES, max_size=2))
    place = draw(st.permutations(range(count)))
    tasks = {}
    for i in range(count):
        reads = draw(some(range(max(0, len(sizes) - 5), len(sizes)), 3))
        more = draw(st.lists(SIZES, max_size=2))
        makes = range(len(sizes), len(sizes) + len(more))
        sizes += more
        pairs = [(made, read) for made in makes for read in sorted(reads)]
        over = draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else []
        after = draw(some(place[:i], 1))
        workspace = draw(st.sampled_from((0, 0, 3)))
        tasks[place[i]] = Task(reads, frozenset(makes), after, workspace, tuple(over))
    kept = draw(some(range(len(sizes)), 2))
    return Tasks(tuple(tasks[i] for i in range(count)), tuple(sizes), kept)


class Plain:
    """What is true of a problem, counted buffer by buffer and set by set."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks = tasks
        each = tasks.tasks
        made_by = {b: i for i, task in enumerate(each) for b in task.makes}
        self.makers = [made_by.get(b) for b in range(len(tasks.sizes))]
        self.readers = [
            {i for i, task in enumerate(each) if b in task.reads}
            for b in range(len(tasks.sizes))
        ]
        self.needs = [
            {*task.after, *(made_by[b] for b in task.reads if b in made_by)}
            for task in each
        ]

    def ready(self, done: Collection[int]) -> list[int]:
        """The tasks that can come next."""
        every = range(len(self.needs))
        return [i for i in every if i not in done and self.needs[i] <= {*done}]

    def orders(self) -> Iterator[tuple[int, ...]]:
        """All of them."""
        pending: list[tuple[int, ...]] = [()]
        while pending:
            order = pending.pop()
            if len(order) == len(self.needs):
                yield order
            pending += [(*order, i) for i in self.ready(order)]

    def bytes_at(self, done: Collection[int], i: int) -> int:
        """The bytes at the step of task i, if these ran before."""
        sizes, kept, task = self.tasks.sizes, self.tasks.kept, self.tasks.tasks[i]
        total = sum(sizes[b] for b in task.makes) + task.workspace
        dying = set()
        for b, (maker, readers) in enumerate(
            zip(self.makers, self.readers, strict=True)
        ):
            left = readers.difference(done)
            if (maker is None or maker in done) and (left or b in kept):
                total += sizes[b]
                if left == {i} and b not in kept:
                    dying.add(b)
        pairs = [(made, read) for made, read in task.over if read in dying]
        while pairs:
            made, read = max(pairs, key=lambda pair: min(sizes[b] for b in pair))
            total -= min(sizes[made], sizes[read])
            pairs = [pair for pair in pairs if pair[0] != made and pair[1] != read]
        return total

    def least_peak(self) -> int:
        """The least peak of any order: one set of done tasks after the other."""
        best: dict[frozenset[int], int] = {frozenset(): 0}
        for _ in self.needs:
            larger: dict[frozenset[int], int] = {}
            for done, peak in best.items():
                for i in self.ready(done):
                    mine = max(peak, self.bytes_at(done, i))
                    then = done | {i}
                    larger[then] = min(larger.get(then, mine), mine)
            best = larger
        (peak,) = best.values()
        return peak
