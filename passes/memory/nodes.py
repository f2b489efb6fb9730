"""The nodes of the search tree of offsets: bounds, decisions, conflicts.

What the words mean is said in `tree.py`. All functions are in this module, as those
that are compiled are kept on disk until its file changes.
"""

from __future__ import annotations

from .tree import (
    AT,
    BEFORE,
    CAUSE,
    CHANGED,
    COUNT,
    DEPTH,
    DOWN,
    EXHAUSTED,
    FEWEST,
    FOCUS,
    FOUND,
    FULL,
    GROUND,
    HEIGHT,
    LEFT,
    LEVEL,
    LOW,
    NEXT,
    RECORD,
    RECORDED,
    RECORDS,
    RUNNING,
    SECTION,
    SLACK,
    STEPS,
    TIGHTEST,
    TRAIL,
    VALUE,
    WORD,
    Problem,
    Row,
    Tree,
)


def advance(problem: Problem, tree: Tree, room: int, choice: int, steps: int) -> int:
    """Visit at most ``steps`` nodes more.

    ``room`` is how much longer the trail may become by a single node.
    """
    registers = tree.registers
    end = registers[STEPS] + steps
    while True:
        dead = -1  # a section, or -2 - a buffer, in which the node is dead
        if registers[DOWN] == 1:
            registers[DOWN] = 0
            dead = settle(problem, tree)
            if dead == -1:
                section = chosen(problem, tree, choice)
                if section < 0:
                    registers[DOWN] = 1
                    return FOUND
                push(problem, tree, section)
        if dead == -1:
            if registers[STEPS] >= end:
                return RUNNING
            if (
                registers[DEPTH] + 1 >= len(tree.frames)
                or registers[CHANGED] + room > len(tree.trail)
                or registers[RECORDED] + len(problem.sizes) > len(tree.records)
            ):
                return FULL
            level = registers[DEPTH] - 1
            frame = tree.frames[level]
            undo(tree, frame)
            section = frame[SECTION]
            buffer = candidate(problem, tree, frame)
            if buffer >= 0:
                dead = place(problem, tree, buffer, level)
            elif frame[NEXT] == problem.member_starts[section + 1] and (
                tree.cells[SLACK][section] > 0
            ):
                frame[NEXT] += 1
                dead = leave_gap(problem, tree, section, level)
            else:
                require_others(problem, tree, section)
                if jump(problem, tree, level) < 0:
                    return EXHAUSTED
                continue
            registers[STEPS] += 1
            registers[DOWN] = 1
        if dead != -1:
            registers[DOWN] = 0
            require_rise(problem, tree, dead)
            if jump(problem, tree, registers[DEPTH]) < 0:
                return EXHAUSTED


def change(tree: Tree, row: int, index: int, value: int) -> None:
    """Set a cell, so that it can be undone."""
    cells, trail, end = tree.cells[row], tree.trail, tree.registers[CHANGED]
    trail[end] = row
    trail[end + 1] = index
    trail[end + 2] = cells[index]
    tree.registers[CHANGED] = end + 3
    cells[index] = value


def undo(tree: Tree, frame: Row) -> None:
    """Go back to where a frame was pushed."""
    cells, trail = tree.cells, tree.trail
    for end in range(tree.registers[CHANGED] - 3, frame[TRAIL] - 3, -3):
        cells[trail[end]][trail[end + 1]] = trail[end + 2]
    tree.registers[CHANGED] = frame[TRAIL]
    tree.registers[RECORDED] = frame[RECORDS]


def settle(problem: Problem, tree: Tree) -> int:
    """Raise grounds that nothing can lie on; a section without slack for it, or -1."""
    cells = tree.cells
    at, low, ground = cells[AT], cells[LOW], cells[GROUND]
    for t in range(len(problem.member_starts) - 1):
        if cells[LEFT][t] == 0 or cells[COUNT][t] > 0:
            continue
        floor = -1
        count = 0
        for p in range(problem.member_starts[t], problem.member_starts[t + 1]):
            b = problem.members[p]
            if at[b] >= 0:
                continue
            if floor < 0 or low[b] < floor:
                floor = low[b]
                count = 1
            elif low[b] == floor:
                count += 1
        slack = cells[SLACK][t] - (floor - ground[t])
        if slack < 0:
            return t
        change(tree, SLACK, t, slack)
        change(tree, GROUND, t, floor)
        change(tree, COUNT, t, count)
    return -1


def chosen(problem: Problem, tree: Tree, choice: int) -> int:
    """The section that is decided next; -1 where nothing is left."""
    left, ground = tree.cells[LEFT], tree.cells[GROUND]
    count, slack = tree.cells[COUNT], tree.cells[SLACK]
    focus = tree.registers[FOCUS]
    total = len(problem.member_starts) - 1
    best = -1
    height = above = below = 0
    a = 0
    while a < total:
        if left[a] == 0:
            a += 1
            continue
        h = ground[a]
        z = a + 1
        while z < total and left[z] > 0 and ground[z] == h:
            z += 1
        open_left = a > 0 and left[a - 1] > 0 and ground[a - 1] < h
        open_right = z < total and left[z] > 0 and ground[z] < h
        if not open_left and not open_right:
            for t in range(a, z):
                choices = count[t] + (1 if slack[t] > 0 else 0)
                if choices == 1:
                    return t
                major = 0 if choice == FEWEST else h
                if t == focus:
                    major = -1
                over, under = choices, tree.weights[t]
                if choice == TIGHTEST:
                    over, under = slack[t], 1
                if (
                    best < 0
                    or major < height
                    or (major == height and over * below < above * under)
                ):
                    best, height, above, below = t, major, over, under
        a = z
    return best


def push(problem: Problem, tree: Tree, section: int) -> None:
    """Open the decision of a section."""
    registers = tree.registers
    if section == registers[FOCUS]:
        registers[FOCUS] = -1
    level = registers[DEPTH]
    registers[DEPTH] += 1
    frame = tree.frames[level]
    frame[SECTION] = section
    frame[NEXT] = problem.member_starts[section]
    frame[TRAIL] = registers[CHANGED]
    frame[HEIGHT] = tree.cells[GROUND][section]
    frame[RECORDS] = registers[RECORDED]
    clear(tree.conflicts[level])


def candidate(problem: Problem, tree: Tree, frame: Row) -> int:
    """The next buffer to be tried on the ground of a section; -1 after the last."""
    at, low = tree.cells[AT], tree.cells[LOW]
    for p in range(frame[NEXT], problem.member_starts[frame[SECTION] + 1]):
        b = problem.members[p]
        if at[b] >= 0 or low[b] != frame[HEIGHT]:
            continue
        twin = problem.twins[b]
        if twin >= 0 and at[twin] < 0:
            continue
        frame[NEXT] = p + 1
        return b
    end = problem.member_starts[frame[SECTION] + 1]
    frame[NEXT] = max(frame[NEXT], end)
    return -1


def place(problem: Problem, tree: Tree, b: int, level: int) -> int:
    """Put a buffer on the ground, which is level beneath it; -1, or where that fails.

    What is to come and overlaps it lies above: it has no room below.
    """
    cells = tree.cells
    at, low, ground, count = cells[AT], cells[LOW], cells[GROUND], cells[COUNT]
    first, last = problem.first, problem.last
    change(tree, AT, b, low[b])
    cells[LEVEL][b] = level
    top = low[b] + problem.sizes[b]
    for t in range(first[b], last[b]):
        change(tree, GROUND, t, top)
        change(tree, LEFT, t, cells[LEFT][t] - 1)
        change(tree, COUNT, t, 0)
    for p in range(problem.neighbor_starts[b], problem.neighbor_starts[b + 1]):
        c = problem.neighbors[p]
        if at[c] >= 0 or low[c] > top:
            continue
        if low[c] == top:
            for t in range(max(first[b], first[c]), min(last[b], last[c])):
                change(tree, COUNT, t, count[t] + 1)
            continue
        before = low[c]
        raise_low(problem, tree, c, top, b)
        if top + problem.sizes[c] > problem.capacity:
            return -2 - c
        for t in range(first[c], last[c]):
            if ground[t] == before:
                change(tree, COUNT, t, count[t] - 1)
            elif ground[t] == top:
                change(tree, COUNT, t, count[t] + 1)
    return -1


def leave_gap(problem: Problem, tree: Tree, section: int, level: int) -> int:
    """Nothing lies on the ground of a section; -1, or where that fails.

    What could have lain there rises to the lowest end of what may support it.
    """
    at, low, lifted = tree.cells[AT], tree.cells[LOW], tree.lifted
    ground, count = tree.cells[GROUND], tree.cells[COUNT]
    height = ground[section]
    members = range(problem.member_starts[section], problem.member_starts[section + 1])
    for p in members:
        b = problem.members[p]
        if at[b] >= 0 or low[b] != height:
            continue
        rise = problem.capacity + 1
        for q in range(problem.neighbor_starts[b], problem.neighbor_starts[b + 1]):
            c = problem.neighbors[q]
            if at[c] >= 0:
                continue
            if problem.first[c] <= section < problem.last[c]:
                end = max(low[c], height + 1) + problem.sizes[c]
            else:
                end = max(low[c] + problem.sizes[c], height + 1)
            rise = min(rise, end)
        lifted[b] = rise
    for p in members:
        b = problem.members[p]
        if at[b] >= 0 or low[b] != height:
            continue
        raise_low(problem, tree, b, lifted[b], -1 - level)
        if lifted[b] + problem.sizes[b] > problem.capacity:
            return -2 - b
        for t in range(problem.first[b], problem.last[b]):
            if ground[t] == height:
                change(tree, COUNT, t, count[t] - 1)
    return -1


def raise_low(problem: Problem, tree: Tree, b: int, value: int, cause: int) -> None:
    """Raise a low, and record why."""
    number = tree.registers[RECORDED]
    tree.registers[RECORDED] += 1
    record = tree.records[number]
    record[CAUSE] = cause
    record[VALUE] = value
    record[BEFORE] = tree.cells[RECORD][b]
    change(tree, RECORD, b, number)
    change(tree, LOW, b, value)


def require_rise(problem: Problem, tree: Tree, dead: int) -> None:
    """Ask why a node is dead: why lows are as high as they must be for that."""
    registers, cells = tree.registers, tree.cells
    clear(tree.needs)
    clear(tree.conflicts[registers[DEPTH]])
    if dead < 0:
        b = -2 - dead
        registers[FOCUS] = tree.frames[registers[DEPTH] - 1][SECTION]
        tree.needs[b] = problem.capacity - problem.sizes[b] + 1
    else:
        registers[FOCUS] = dead
        height = cells[GROUND][dead] + cells[SLACK][dead] + 1
        for p in range(problem.member_starts[dead], problem.member_starts[dead + 1]):
            b = problem.members[p]
            if cells[AT][b] < 0:
                tree.needs[b] = height
    tree.weights[registers[FOCUS]] += 1


def require_others(problem: Problem, tree: Tree, section: int) -> None:
    """Ask why a section has no other choices than those that were tried."""
    at, low = tree.cells[AT], tree.cells[LOW]
    height = tree.cells[GROUND][section]
    no_gap = tree.cells[SLACK][section] == 0
    clear(tree.needs)
    if no_gap:
        tree.weights[section] += 1
        tree.registers[FOCUS] = section
    for p in range(problem.member_starts[section], problem.member_starts[section + 1]):
        b = problem.members[p]
        if at[b] >= 0:
            continue
        twin = problem.twins[b]
        if low[b] > height:
            tree.needs[b] = height + 1
        elif no_gap:
            tree.needs[b] = height
        elif twin >= 0 and at[twin] < 0:
            tree.needs[twin] = max(tree.needs[twin], height)


def jump(problem: Problem, tree: Tree, level: int) -> int:
    """Add what the needs stand on to the conflict of a level, and go where it began.

    Returns the depth of that decision, which takes over the conflict; -1 for none.
    """
    explain(problem, tree, tree.conflicts[level])
    conflict = tree.conflicts[level]
    back = latest(conflict)
    if back < 0:
        return -1
    into = tree.conflicts[back]
    if back != level:
        for i in range(len(into)):
            into[i] |= conflict[i]
    into[back // WORD] &= ~(1 << (back % WORD))
    tree.registers[DEPTH] = back + 1
    return back


def explain(problem: Problem, tree: Tree, conflict: Row) -> None:
    """Collect the decisions by which each low is at least its need."""
    cells, records, needs = tree.cells, tree.records, tree.needs
    waiting = 0
    for b in range(len(problem.sizes)):
        tree.queued[b] = 0
        if needs[b] > 0:
            tree.queued[b] = 1
            tree.queue[waiting] = b
            waiting += 1
    while waiting > 0:
        waiting -= 1
        b = tree.queue[waiting]
        tree.queued[b] = 0
        need = needs[b]
        number = cells[RECORD][b]
        while need > 0:
            record = records[number]
            while record[BEFORE] >= 0 and records[record[BEFORE]][VALUE] >= need:
                record = records[record[BEFORE]]
            cause = record[CAUSE]
            if cause >= 0:  # the low was above its ground before, with no room beneath
                add(conflict, cells[LEVEL][cause])
                need = cells[AT][cause] - problem.sizes[b] + 1
            else:
                waiting = explain_gap(problem, tree, conflict, b, need, cause, waiting)
                need = tree.frames[-1 - cause][HEIGHT]
            number = record[BEFORE]


def explain_gap(
    problem: Problem,
    tree: Tree,
    conflict: Row,
    b: int,
    need: int,
    cause: int,
    waiting: int,
) -> int:
    """Ask why nothing could support a buffer below its need; the longer queue."""
    level = -1 - cause
    add(conflict, level)
    section, height = tree.frames[level][SECTION], tree.frames[level][HEIGHT]
    cells, needs = tree.cells, tree.needs
    for p in range(problem.neighbor_starts[b], problem.neighbor_starts[b + 1]):
        c = problem.neighbors[p]
        if cells[AT][c] >= 0 and cells[LEVEL][c] < level:
            add(conflict, cells[LEVEL][c])
            continue
        wanted = need - problem.sizes[c]
        if low_before(tree, c, level) < wanted:  # by the gap itself
            inside = problem.first[c] <= section < problem.last[c]
            wanted = height if inside else 0
        if wanted > needs[c]:
            needs[c] = wanted
            if tree.queued[c] == 0:
                tree.queued[c] = 1
                tree.queue[waiting] = c
                waiting += 1
    return waiting


def low_before(tree: Tree, b: int, level: int) -> int:
    """The low of a buffer when a level was decided."""
    number = tree.cells[RECORD][b]
    while number >= 0:
        record = tree.records[number]
        cause = record[CAUSE]
        since = tree.cells[LEVEL][cause] if cause >= 0 else -1 - cause
        if since < level:
            return record[VALUE]
        number = record[BEFORE]
    return 0


def clear(row: Row) -> None:
    """Set all to 0."""
    for i in range(len(row)):
        row[i] = 0


def add(conflict: Row, level: int) -> None:
    """Add a decision to a conflict."""
    conflict[level // WORD] |= 1 << (level % WORD)


def latest(conflict: Row) -> int:
    """The last decision of a conflict; -1 if it is empty."""
    for i in range(len(conflict) - 1, -1, -1):
        word = conflict[i]
        if word != 0:
            bit = WORD - 1
            while word >> bit & 1 == 0:
                bit -= 1
            return i * WORD + bit
    return -1
