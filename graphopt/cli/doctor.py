"""Find what is broken in the installation, and say how to mend it.

TARGET (ort-cpu, ort-cuda, xla-cpu, xla-cuda, xla-tpu) is what should run here: without
any, what is installed must work, with some, what they need must be there too. Exit code
5 where that is not so.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

from ..doctor import TARGETS, Finding, examine, wanted
from ..errors import BackendMissing
from .arguments import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"what should run here: {', '.join(TARGETS[1:])}",
    )


def run(options: argparse.Namespace) -> int:
    """Look, print, and fail where something is wrong."""
    asked = wanted(options.targets)
    found = [
        finding
        for finding in examine()
        if not asked or any(target in finding.targets for target in asked)
    ]
    wrong = [finding for finding in found if finding.is_wrong(asked)]
    say(
        options,
        _lines(found, wrong),
        targets=asked,
        well=not wrong,
        findings=[dataclasses.asdict(f) | {"wrong": f in wrong} for f in found],
    )
    return BackendMissing.exit_code if wrong else 0


def _lines(found: Sequence[Finding], wrong: Sequence[Finding]) -> Iterator[str]:
    width = max((len(finding.about) for finding in found), default=0)
    for finding in found:
        mark = "WRONG" if finding in wrong else finding.state
        yield f"{mark:8}  {finding.about:{width}}  {finding.said}"
        if finding.advice and finding.state != "ok":
            yield f"{'':8}  {'':{width}}  {finding.advice}"
    yield ""
    yield f"{len(wrong)} wrong" if wrong else "all is well"
