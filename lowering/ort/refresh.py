"""Write the packaged kernel tables anew from the ONNX Runtime that is installed.

``python -m graphopt.lowering.ort.refresh [cpu] [cuda]``; without arguments, both that
it has. The table of CUDA is read from the GPU wheel, where CUDA and TensorRT are.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from . import registry
from .recipe import PROVIDERS

DATA: Final = Path(__file__).parent / "data"


def main(arguments: Sequence[str]) -> None:
    """Read and write; raises as `registry.read`."""
    for provider in arguments or PROVIDERS:
        try:
            data = registry.read(PROVIDERS[provider])
        except LookupError as error:
            if provider in arguments:
                raise
            print(error)
            continue
        read = {"read": datetime.date.today().isoformat()}
        path = DATA / f"{provider}.json"
        path.write_text(as_text(data | read))
        print(f"{path.name}: {data['source']}")


def as_text(data: Mapping[str, Any]) -> str:
    """JSON with a line for each kind, so that differences can be read."""
    members = [f"{json.dumps(key)}: {_nested(value)}" for key, value in data.items()]
    return "{\n" + ",\n".join(members) + "\n}\n"


def _nested(value: Any) -> str:
    if not isinstance(value, Mapping):
        return json.dumps(value)
    domains = []
    for domain, kinds in value.items():
        lines = ",\n".join(
            f"  {json.dumps(kind)}: {json.dumps(rows, separators=(',', ':'))}"
            for kind, rows in kinds.items()
        )
        domains.append(f" {json.dumps(domain)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(domains) + "\n}"


if __name__ == "__main__":
    main(sys.argv[1:])
