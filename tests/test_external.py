"""External data: what is refused, what stays on disk, what is written whole."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto

from graphopt.errors import InvalidModel, UsageError
from graphopt.files import ExternalWriter, atomic_write
from graphopt.weights import Tensor

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")


def external(dims=(4,), data_type=TensorProto.FLOAT, **entries) -> TensorProto:
    proto = TensorProto(name="evil", dims=dims, data_type=data_type)
    proto.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


@pytest.fixture
def folder(tmp_path):
    """A model's folder: 16 bytes in w.data and in deep/w.data; secrets beside it."""
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    data = np.arange(4, dtype=np.float32).tobytes()
    for file in ("model/w.data", "model/deep/w.data", "secret"):
        (tmp_path / file).write_bytes(data)
    return model


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w.data"},
        {"location": "./deep//w.data"},
        {
            "location": "w.data",
            "offset": 0,
            "length": 16,
            "checksum": "00",
            "basepath": "/etc",
        },
    ],
    ids=str,
)
def test_legal_files_are_read(folder, entries):
    tensor = Tensor.from_proto(external(**entries), folder=folder)
    assert tensor.array().tolist() == [0, 1, 2, 3]


def test_slices_of_any_alignment(folder):
    (folder / "w.data").write_bytes(bytes(range(256)) * 64)
    for offset in (0, 1, 4, 4097):
        proto = external([2000], location="w.data", offset=offset)
        expected = (bytes(range(256)) * 64)[offset : offset + 8000]
        array = Tensor.from_proto(proto, folder=folder).array()
        assert array.tobytes() == expected
        assert array.flags.aligned
    nothing = external([0, 3], location="w.data", offset=1 << 14, length=0)
    assert Tensor.from_proto(nothing, folder=folder).array().shape == (0, 3)


HOSTILE = {
    "parent": ({"location": "../secret"}, "leaves the model"),
    "inner parent": ({"location": "deep/../../secret"}, "leaves the model"),
    "parent that returns": ({"location": "deep/../w.data"}, "leaves the model"),
    "absolute": ({"location": "/etc/passwd"}, "must be relative"),
    "nul": ({"location": "w.data\0x"}, "must be relative"),
    "empty": ({"location": ""}, "names no file"),
    "dot": ({"location": "."}, "names no file"),
    "missing": ({"location": "none.data"}, "not found"),
    "missing folder": ({"location": "none/w.data"}, "not found"),
    "folder": ({"location": "deep"}, "not a regular file"),
    "through a file": ({"location": "w.data/x"}, "link or no folder"),
    "long": ({"location": "x" * 5000}, "too long"),
    "symlink": ({"location": "soft"}, "link or no folder"),
    "symlink inside": ({"location": "inner"}, "link or no folder"),
    "dangling symlink": ({"location": "dangling"}, "link or no folder"),
    "symlink folder": ({"location": "up/secret"}, "link or no folder"),
    "hard link": ({"location": "hard"}, "2 hard links"),
    "pipe": ({"location": "pipe"}, "not a regular file"),
    "past the end": ({"location": "w.data", "offset": 1}, "ends at byte 17"),
    "far past the end": ({"location": "w.data", "offset": 10**17}, "ends at byte"),
    "empty past the end": (
        {"location": "w.data", "dims": [0], "offset": 17},
        "ends at byte 17",
    ),
    "negative offset": ({"location": "w.data", "offset": -4}, "offset must be"),
    "negative length": ({"location": "w.data", "length": -1}, "length must be"),
    "offset not a number": ({"location": "w.data", "offset": "1e3"}, "offset must be"),
    "spaced number": ({"location": "w.data", "offset": " 0"}, "offset must be"),
    "other digits": ({"location": "w.data", "offset": "\u0660"}, "offset must be"),
    "huge number": ({"location": "w.data", "offset": "9" * 5000}, "offset must be"),
    "too short": ({"location": "w.data", "length": 12}, "12 bytes.*need 16"),
    "too long": ({"location": "w.data", "length": 20}, "20 bytes.*need 16"),
    "file too short": ({"location": "w.data", "dims": [5]}, "has 16 bytes"),
    "4 TB": (
        {"location": "w.data", "dims": [1 << 40], "length": 1 << 42},
        "claim over",
    ),
    "32 GiB": ({"location": "w.data", "dims": [1 << 33]}, "has 16 bytes"),
    "unknown key": ({"location": "w.data", "__class__": "x"}, "unknown.*__class__"),
}


@POSIX
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_external_data_is_refused_by_name(folder, case):
    (folder / "soft").symlink_to("../secret")
    (folder / "inner").symlink_to("w.data")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "up").symlink_to("..")
    (folder / "hard").hardlink_to(folder.parent / "secret")
    os.mkfifo(folder / "pipe")
    fields, message = HOSTILE[case]
    proto = external(**fields)
    open_files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel, match=f"(?s){message}.*'evil'") as caught:
            Tensor.from_proto(proto, folder=folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert len(str(caught.value)) < 400
    if open_files:
        assert len(os.listdir("/proc/self/fd")) == open_files


def test_no_folder_two_keys_not_utf8(folder):
    with pytest.raises(InvalidModel, match=r"by its path.*'evil'"):
        Tensor.from_proto(external(location="w.data"))
    twice = external(location="w.data")
    twice.external_data.add(key="location", value="w.data")
    with pytest.raises(InvalidModel, match=r"two 'location'.*'evil'"):
        Tensor.from_proto(twice, folder=folder)
    wire = external(location="w.data").SerializeToString()
    proto = TensorProto.FromString(wire.replace(b"w.data", b"w.d\xffta"))
    with pytest.raises(InvalidModel, match=r"not UTF-8.*'evil'"):
        Tensor.from_proto(proto, folder=folder)


@POSIX
def test_the_model_folder_itself_may_be_a_link(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    tensor = Tensor.from_proto(external(location="w.data"), folder=link)
    assert tensor.array().tolist() == [0, 1, 2, 3]


@POSIX
@pytest.mark.parametrize("swap", ["replaced", "linked", "removed", "shortened"])
def test_a_file_that_changed_is_not_read(folder, swap):
    tensor = Tensor.from_proto(external(location="w.data"), folder=folder)
    path = folder / "w.data"
    if swap == "shortened":
        os.truncate(path, 8)
    else:
        path.unlink()
    if swap == "replaced":
        path.write_bytes(bytes(16))
    if swap == "linked":
        path.symlink_to("../secret")
    for read in (tensor.array, tensor.packed_bytes, tensor.digest):
        with pytest.raises(InvalidModel, match=r"w\.data"):
            read()


def test_paths_compared_where_folders_cannot_be_opened(folder, monkeypatch):
    monkeypatch.setattr("graphopt.external._OPENS_RELATIVE", False)
    tensor = Tensor.from_proto(external(location="deep/w.data"), folder=folder)
    assert tensor.array().tolist() == [0, 1, 2, 3]
    if os.name == "posix":
        (folder / "soft").symlink_to("w.data")
        (folder / "up").symlink_to("..")
        for location in ("soft", "up/secret"):
            with pytest.raises(InvalidModel, match=r"link.*'evil'"):
                Tensor.from_proto(external(location=location), folder=folder)


def test_the_map_is_shared_and_dropped(folder):
    data = np.arange(1 << 16, dtype=np.float32)
    (folder / "w.data").write_bytes(data.tobytes())
    halves = [
        Tensor.from_proto(
            external([1 << 15], location="w.data", offset=offset), folder=folder
        )
        for offset in (0, 1 << 17)
    ]
    slices = [half.location for half in halves]
    assert slices[0].file is slices[1].file
    arrays = [half.array() for half in halves]
    np.testing.assert_array_equal(np.concatenate(arrays), data)
    assert halves[0].array() is arrays[0]
    maps = slices[0].file._map
    assert maps[0]() is not None
    del arrays[0]
    gc.collect()
    assert maps[0]() is not None
    del arrays
    gc.collect()
    assert maps[0]() is None
    assert halves[1].array()[0] == 1 << 15


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_200_mb_stay_out_of_private_memory(tmp_path):
    script = """
        import re, sys
        from pathlib import Path
        import onnx
        import numpy as np
        from graphopt.files import ExternalWriter
        from graphopt.weights import Tensor

        def anonymous():
            status = Path("/proc/self/status").read_text()
            return int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]) >> 10

        def external(dims, offset):
            proto = onnx.TensorProto(name="w", data_type=1, dims=dims, data_location=1)
            proto.external_data.add(key="location", value="w.data")
            proto.external_data.add(key="offset", value=str(offset))
            return proto

        folder = Path(sys.argv[1])
        count = 200 << 18
        with open(folder / "w.data", "wb") as file:
            for part in range(200):
                file.write(np.full(1 << 18, part, np.float32).tobytes())
        before = anonymous()
        large = Tensor.from_proto(external([count], 0), folder=folder)
        small = Tensor.from_proto(external([8], 4 << 20), folder=folder)
        assert small.array().tolist() == [4.0] * 8
        assert anonymous() - before < 20, "small"
        array = large.array()
        assert array[:: 1 << 18].sum() == sum(range(200))
        assert array.max() == 199
        assert anonymous() - before < 20, "mapped"
        with ExternalWriter(folder / "copy.data") as writer:
            writer.append(small)
            placed = writer.append(large)
            writer.commit()
        assert placed == ("copy.data", 4096, 200 << 20)
        assert anonymous() - before < 20, "copied"
        copied = (folder / "copy.data").stat().st_size
        assert copied == placed.offset + placed.length
        copy = onnx.TensorProto(data_type=1, dims=[count], data_location=1)
        for key, value in placed._asdict().items():
            copy.external_data.add(key=key, value=str(value))
        assert Tensor.from_proto(copy, folder=folder).same_bits(large)
        assert anonymous() - before < 20, "compared"
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True
    )


def test_writer_aligns_and_pads(tmp_path):
    small = Tensor.of(np.arange(5, dtype=np.int8))
    large = Tensor.of(np.ones(1 << 18, np.float32))
    with ExternalWriter(tmp_path / "w.data") as writer:
        places = [writer.append(tensor) for tensor in (small, small, large, small)]
        assert not (tmp_path / "w.data").exists()
        writer.commit()
    assert [place.offset for place in places] == [0, 64, 4096, 4096 + (1 << 20)]
    content = (tmp_path / "w.data").read_bytes()
    assert content[:5] == content[64:69] == content[-5:] == bytes(range(5))
    assert not any(content[5:64] + content[69:4096])
    assert os.listdir(tmp_path) == ["w.data"]


def test_failed_writes_leave_what_was_there(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fails(file):
        file.write(b"half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        atomic_write(path, fails)
    with ExternalWriter(path) as writer:
        writer.append(Tensor.of([1, 2, 3]))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]
    atomic_write(path, b"new", sync=True)
    atomic_write(tmp_path / "other", lambda file: file.write(b"by function"))
    assert path.read_bytes() == b"new"
    assert (tmp_path / "other").read_bytes() == b"by function"
    with pytest.raises(UsageError, match="missing"):
        atomic_write(tmp_path / "missing" / "model.onnx", b"")


@POSIX
def test_writes_never_pass_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"keep")
    (tmp_path / "soft").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("soft", "dangling", "folder"):
        with pytest.raises(UsageError, match=name):
            atomic_write(tmp_path / name, b"evil")
    with pytest.raises(UsageError, match="symbolic link"):
        ExternalWriter(tmp_path / "soft")
    (tmp_path / "hard").hardlink_to(target)
    atomic_write(tmp_path / "hard", b"mine")
    assert target.read_bytes() == b"keep"
    assert sorted(os.listdir(tmp_path)) == [
        "dangling", "folder", "hard", "soft", "target"
    ]  # fmt: skip
    mode = (tmp_path / "hard").stat().st_mode
    umask = os.umask(0)
    os.umask(umask)
    assert mode & 0o777 == 0o666 & ~umask
