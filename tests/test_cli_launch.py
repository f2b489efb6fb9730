"""The command that starts another in several processes, and what these are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from graphopt import UsageError
from graphopt.cli import launch as module
from graphopt.cli.launch import launch, shares
from graphopt.lowering.xla.environment import (
    Processes,
    processes,
    show_devices,
)

ROOT = Path(__file__).parents[1]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\n{code}"]


def test_each_is_told_its_rank_and_where_to_meet(capfd: Any) -> None:
    code = """
from graphopt.lowering.xla.environment import processes
found = processes()
print(found.count, found.rank, found.coordinator.partition(":")[0])
"""
    assert launch(python(code), 2) == 0
    out, err = capfd.readouterr()
    assert out == "2 0 127.0.0.1\n"
    assert err == "[1] 2 1 127.0.0.1\n"


def test_messages_have_the_rank_before_them(capfd: Any) -> None:
    code = "print('first\\nsecond', os.environ['GRAPHOPT_RANK'], file=sys.stderr)"
    assert launch(python(code), 2) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.splitlines()) == [
        "[0] first",
        "[0] second 0",
        "[1] first",
        "[1] second 1",
    ]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_first_failure_is_the_exit_code(
    rank: int, capfd: Any, monkeypatch: Any
) -> None:
    """The others do not come to an end by themselves, and are ended."""
    monkeypatch.setattr(module, "_GRACE", 0.2)
    code = f"""
if os.environ['GRAPHOPT_RANK'] == '{rank}': sys.exit(4)
time.sleep(600)
"""
    begin = time.monotonic()
    assert launch(python(code), 3) == 4
    assert time.monotonic() - begin < 30


def test_a_process_that_a_signal_ends(capfd: Any) -> None:
    code = "os.kill(os.getpid(), 9)"
    assert launch(python(code), 1) == 128 + 9


def test_none_is_left_when_the_launcher_is_ended(tmp_path: Path) -> None:
    """Also of those that do not listen."""
    code = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
rank = os.environ['GRAPHOPT_RANK']
open(f'{os.environ["PLACE"]}/{rank}', 'w').write(str(os.getpid()))
time.sleep(600)
"""
    start = (
        "from graphopt.cli import main, launch; import sys\n"
        "launch._GRACE = 0.2\n"
        "launch.COMMAND = sys.argv[1:]\n"
        "launch.run = lambda options: launch.launch(launch.COMMAND, 2)\n"
        "sys.exit(main(['launch', '--', 'doctor']))"
    )
    env = os.environ | {"PLACE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", start, *python(code)]
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE) as launcher:
        numbers = [tmp_path / "0", tmp_path / "1"]
        until = time.monotonic() + 60
        while not all(n.exists() and n.read_text() for n in numbers):
            assert time.monotonic() < until
            time.sleep(0.05)
        started = [int(n.read_text()) for n in numbers]
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 143
    for number in started:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_commands_are_those_of_graphopt(command: Any) -> None:
    code, _, said = command("launch", "-n", "2", "--", "passes", "--no-such-option")
    assert code == 2
    assert "[0] graphopt: unrecognized arguments: --no-such-option" in said
    assert "[1] graphopt: unrecognized arguments: --no-such-option" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--processes", "2"), "no command to start"),
        (("--", "launch", "--", "run"), "does not start itself"),
        (("-n", "0", "--", "doctor"), "0 processes"),
    ],
)
def test_what_cannot_be_started(words: Any, said: str, command: Any) -> None:
    code, _, err = command("launch", *words)
    assert code == 2
    assert said in err


# --- the environment ----------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: Any) -> Any:
    """Set what the environment says of processes, and nothing else."""

    def tell(**named: str) -> None:
        for name in ("COORDINATOR", "PROCESSES", "RANK"):
            monkeypatch.delenv(f"GRAPHOPT_{name}", raising=False)
        for name, value in named.items():
            monkeypatch.setenv(f"GRAPHOPT_{name}", value)

    return tell


def test_processes_by_the_environment(told: Any) -> None:
    told()
    assert processes() is None
    told(COORDINATOR="host:1", PROCESSES="4", RANK="3")
    assert processes() == Processes("host:1", 4, 3)
    told(COORDINATOR="auto")
    assert processes() == Processes("auto", None, None)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"PROCESSES": "2", "RANK": "0"}, "GRAPHOPT_COORDINATOR is not set"),
        ({"COORDINATOR": "h:1", "RANK": "0"}, "GRAPHOPT_PROCESSES is not"),
        ({"COORDINATOR": "h:1", "PROCESSES": "2"}, "GRAPHOPT_RANK is not"),
        ({"COORDINATOR": "h:1", "PROCESSES": "2", "RANK": "2"}, "none of 2"),
        ({"COORDINATOR": "h:1", "PROCESSES": "-2", "RANK": "2"}, "no number"),
    ],
)
def test_what_is_not_complete(named: Any, said: str, told: Any) -> None:
    told(**named)
    with pytest.raises(UsageError, match=said):
        processes()


def test_devices_are_shared_out_to_processes(told: Any, monkeypatch: Any) -> None:
    told(COORDINATOR="host:1", PROCESSES="4", RANK="3")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    show_devices(8)
    wanted = "--xla_dump_to=x --xla_force_host_platform_device_count=2"
    assert os.environ["XLA_FLAGS"] == wanted
    show_devices(16)  # what is set stays
    assert os.environ["XLA_FLAGS"] == wanted
    monkeypatch.delenv("XLA_FLAGS")
    with pytest.raises(UsageError, match="6 devices are not divided by 4 processes"):
        show_devices(6)


def test_it_says_what_shares_nothing_out(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "launch", lambda *_: 0)
    code, _, err = command("launch", "-n", "2", "--", "doctor", "--help")
    assert code == 0
    assert "each of the 2 processes does all of this doctor" in err
    assert not shares(["run", "model.onnx"])
    assert not shares(["inspect", "model.onnx", "--mesh", "2"])
    assert shares(["run", "model.onnx", "--mesh=2"])
    assert shares(["run", "model.onnx", "--mesh", "2"])
