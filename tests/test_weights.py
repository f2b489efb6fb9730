"""Tensor against onnx's own decoder: each element type, each way to store it."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphopt.encoding import CHUNK, FIELDS
from graphopt.errors import InvalidModel
from graphopt.files import ExternalWriter
from graphopt.sparse import sparse_from_proto
from graphopt.types import DType
from graphopt.weights import SMALL, Tensor

NUMERIC = [dtype for dtype in DType if dtype is not DType.STRING]
NARROW = [dtype for dtype in NUMERIC if dtype.bits < 8]
SHAPES = [(), (0,), (1,), (5,), (3, 7), (2, 0, 3), (4, 3, 2)]


def random_array(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Every bit pattern of the type may occur: NaNs with payload, -0.0, denormals."""
    rng = np.random.default_rng(dtype.value + sum(shape))
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    width = dtype.numpy.itemsize
    codes = rng.integers(0, 256, (*shape, width), np.uint8)
    if dtype.bits < 8:
        codes &= (1 << dtype.bits) - 1
    return np.frombuffer(codes.tobytes(), dtype.numpy).reshape(shape)


def bits(array: np.ndarray) -> bytes:
    return array.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_round_trip_agrees_with_onnx(dtype, shape):
    array = random_array(dtype, shape)
    proto = numpy_helper.from_array(array, "w")
    tensor = Tensor.from_proto(proto)
    assert (tensor.dtype, tensor.shape) == (dtype, shape)
    assert (tensor.size, tensor.rank) == (array.size, len(shape))
    assert tensor.array().dtype == dtype.numpy
    assert bits(tensor.array()) == bits(numpy_helper.to_array(proto)) == bits(array)
    assert not tensor.array().flags.writeable
    assert tensor.nbytes == len(proto.raw_data) == len(tensor.packed_bytes())

    made = Tensor.of(array)
    assert made.dtype is dtype
    assert made.to_proto("w") == tensor.to_proto("w") == proto
    assert made.same_bits(tensor)
    assert made.digest() == tensor.digest()
    assert made.key == tensor.key or tensor.nbytes > SMALL


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_typed_fields_agree_with_onnx(dtype, shape):
    array = random_array(dtype, shape)
    proto = TensorProto(name="w", data_type=dtype.value, dims=shape)
    field = next(name for name, legal in FIELDS.items() if dtype in legal)
    if dtype.is_complex:
        entries = array.reshape(-1).view(f"f{dtype.numpy.itemsize // 2}")
    elif field != "int32_data":
        entries = array.reshape(-1)
    elif dtype.bits in (2, 4):
        entries = np.frombuffer(Tensor.of(array).packed_bytes(), np.uint8)
    elif dtype.is_integer:
        entries = array.reshape(-1).astype(np.int32)
    else:
        entries = array.reshape(-1).view(f"u{dtype.numpy.itemsize}")
    getattr(proto, field).extend(entries.tolist())
    tensor = Tensor.from_proto(proto)
    expected = numpy_helper.to_array(proto)
    np.testing.assert_array_equal(tensor.array(), expected)
    if field == "int32_data":
        assert bits(tensor.array()) == bits(array)
    assert not tensor.array().flags.writeable
    if array.size:
        getattr(proto, field).append(entries[0].item())
        with pytest.raises(InvalidModel, match=f"{field} has .* entries.*'w'"):
            Tensor.from_proto(proto)


def test_all_onnx_element_types_are_known():
    numbers = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    assert {dtype.value for dtype in DType} == numbers


def test_strings_keep_their_bytes():
    texts = ["", "a", "grüße", "日本"]
    proto = numpy_helper.from_array(np.array(texts, object).reshape(2, 2), "s")
    tensor = Tensor.from_proto(proto)
    assert tensor.array().tolist() == [["", "a"], ["grüße", "日本"]]
    assert not tensor.array().flags.writeable
    assert tensor.to_proto("s") == proto
    assert Tensor.of([["", "a"], ["grüße", "日本"]]).key == tensor.key
    assert Tensor.of(np.array(["x", "yz"])).nbytes == 3
    assert not Tensor.of(["ab", "c"]).same_bits(Tensor.of(["a", "bc"]))
    assert Tensor.of(["ab", "c"]).digest() != Tensor.of(["a", "bc"]).digest()
    latin = TensorProto(name="l", data_type=8, dims=[1], string_data=[b"gr\xfc"])
    assert Tensor.from_proto(latin).to_proto("l") == latin
    again = Tensor.of(Tensor.from_proto(latin).array())
    assert again.to_proto("l") == latin
    with pytest.raises(TypeError):
        tensor.packed_bytes()
    with pytest.raises(TypeError):
        Tensor.of(np.array(["1"]), DType.F32)
    assert Tensor.of("ends\0").array().item() == "ends\0"


@pytest.mark.parametrize("dtype", [*NARROW, DType.F32, DType.C128], ids=str)
def test_chunks_meet_without_seams(dtype):
    size = 2 * CHUNK * 8 // dtype.bits + 5
    array = random_array(dtype, (size,))
    tensor = Tensor.of(array)
    packed = tensor.packed_bytes()
    assert max(map(len, tensor.chunks())) == CHUNK
    assert packed == numpy_helper.from_array(array).raw_data
    whole = Tensor(dtype, (size,), packed)
    assert bits(whole.array()) == bits(array)
    assert whole.same_bits(tensor)
    assert whole.digest() == tensor.digest()
    sink = io.BytesIO()
    tensor.write_to(sink)
    assert sink.getvalue() == packed
    other = bytearray(packed)
    other[-2] ^= 1
    assert not whole.same_bits(Tensor(dtype, (size,), bytes(other)))


def test_of_python_values():
    assert Tensor.of(3).type == Tensor.of(np.int64(3)).type
    assert Tensor.of(3).dtype is DType.I64
    assert Tensor.of(0.5).dtype is DType.F32
    assert Tensor.of(np.float64(0.5)).dtype is DType.F64
    assert Tensor.of(True).dtype is DType.BOOL
    assert Tensor.of("a").dtype is DType.STRING
    assert Tensor.of([[1, 2]], DType.F16).array().tolist() == [[1.0, 2.0]]
    assert Tensor.of(-1, DType.I4).array() == ml_dtypes.int4(-1)
    assert Tensor.of(np.arange(3, dtype=">i2")).array().tolist() == [0, 1, 2]
    with pytest.raises(OverflowError):
        Tensor.of(300, DType.U8)
    with pytest.raises(TypeError):
        Tensor.of(np.zeros(2, "M8[s]"))


def test_of_takes_arrays_over_and_copies_views():
    owned = np.zeros(1000, np.float32)
    assert Tensor.of(owned).array() is owned
    with pytest.raises(ValueError, match="read-only"):
        owned[0] = 1
    base = np.zeros((10, 10))
    views = [base[2], base.T, np.broadcast_to(base, (10, 10)), base[:5].reshape(-1)]
    tensors = list(map(Tensor.of, views))
    base += 1
    assert all(not tensor.array().any() for tensor in tensors)
    frozen = Tensor.of(np.arange(1000)).array().reshape(10, 100)
    assert Tensor.of(frozen).array() is frozen


def test_keys_tell_bits_types_and_shapes_apart():
    tensors = [
        Tensor.of(np.float32(0.0)),
        Tensor.of(np.float32(-0.0)),
        Tensor.of(np.int32(0)),
        Tensor.of(np.zeros(1, np.float32)),
        Tensor.of(np.zeros((1, 1), np.float32)),
        Tensor.of(np.float32(np.nan)),
        Tensor.of(np.uint32(0x7FC00001).view(np.float32)),
        Tensor.of(np.zeros(SMALL // 4 + 1, np.float32)),
        Tensor.of(np.zeros(SMALL // 4 + 1, np.float32)),
    ]
    assert len({tensor.key for tensor in tensors}) == len(tensors)
    assert tensors[-1].same_bits(tensors[-2])
    assert not tensors[0].same_bits(tensors[1])
    assert tensors[5].key == Tensor.of(np.float32(np.nan)).key


def test_malformed_bools_read_as_true_and_unaligned_bytes_as_aligned():
    proto = TensorProto(name="b", data_type=9, dims=[3], raw_data=b"\0\1\2")
    array = Tensor.from_proto(proto).array()
    assert array.view(np.uint8).tolist() == [0, 1, 1]


HOSTILE = {
    "negative dim": (
        {"data_type": 1, "dims": [-1], "raw_data": b"1234"},
        "negative dim",
    ),
    "two negative dims": (
        {"data_type": 1, "dims": [-1, -1], "raw_data": b"1234"},
        "neg",
    ),
    "4 TB": ({"data_type": 1, "dims": [1 << 40]}, "claim over"),
    "overflow": ({"data_type": 1, "dims": [1 << 62, 1 << 62]}, "claim over"),
    "wraps to zero": ({"data_type": 1, "dims": [1 << 32, 1 << 32]}, "claim over"),
    "hidden by a zero": ({"data_type": 1, "dims": [0, 1 << 62]}, "claim over"),
    "many strings": ({"data_type": 8, "dims": [1 << 40]}, "claim over"),
    "axes": ({"data_type": 1, "dims": [1] * 65, "raw_data": b"1234"}, "65 axes"),
    "no type": ({"dims": [1], "raw_data": b"1234"}, "element type 0"),
    "unknown type": ({"data_type": 99, "dims": [1], "raw_data": b"1234"}, "type 99"),
    "negative type": ({"data_type": -1, "dims": [1], "raw_data": b"1234"}, "type -1"),
    "short": (
        {"data_type": 1, "dims": [2], "raw_data": b"1234567"},
        "has 7 bytes.*need 8",
    ),
    "long": (
        {"data_type": 1, "dims": [1], "raw_data": b"12345"},
        "has 5 bytes.*need 4",
    ),
    "unpacked int4": ({"data_type": 22, "dims": [3], "raw_data": b"123"}, "need 2"),
    "no data": ({"data_type": 1, "dims": [2]}, "no data for 2"),
    "two fields": (
        {"data_type": 1, "dims": [1], "raw_data": b"1234", "float_data": [1.0]},
        "both float_data and raw_data",
    ),
    "wrong field": (
        {"data_type": 7, "dims": [1], "float_data": [1.0]},
        "i64 cannot lie",
    ),
    "string in raw": (
        {"data_type": 8, "dims": [1], "raw_data": b"a"},
        "string cannot lie",
    ),
    "segment": (
        {"data_type": 1, "dims": [1], "segment": {"begin": 0, "end": 1}},
        "segments",
    ),
    "external strings": ({"data_type": 8, "dims": [1], "data_location": 1}, "strings"),
    "no location": (
        {"data_type": 1, "dims": [1], "data_location": 1},
        "without a location",
    ),
    "external and inline": (
        {"data_type": 1, "dims": [1], "data_location": 1, "raw_data": b"1234"},
        "external data and raw_data",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_protos_are_refused_by_name(case):
    fields, message = HOSTILE[case]
    proto = TensorProto(name="evil", **fields)
    with pytest.raises(InvalidModel, match=f"{message}.*'evil'"):
        Tensor.from_proto(proto)
    with pytest.raises(InvalidModel, match=f"{message}.*attribute value"):
        Tensor.from_proto(proto, where="attribute value")


def sparse(values, indices, dims) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(np.asarray(values), "s"),
        indices=numpy_helper.from_array(np.asarray(indices, np.int64)),
        dims=dims,
    )


@pytest.mark.parametrize("indices", [[1, 5, 6], [[0, 1], [1, 1], [1, 2]]])
def test_sparse_spelled_out(indices):
    proto = sparse([1.5, 2.5, 3.5], indices, [2, 4])
    tensor = sparse_from_proto(proto)
    assert tensor.dense().array().tolist() == [[0, 1.5, 0, 0], [0, 2.5, 3.5, 0]]
    assert tensor.to_proto("s") == proto


def test_empty_sparse():
    zeros = np.zeros(0, np.float32)
    for indices in (zeros, zeros.reshape(0, 2)):
        dense = sparse_from_proto(sparse(zeros, indices, [2, 3])).dense()
        assert dense.same_bits(Tensor.of(np.zeros((2, 3), np.float32)))


SPARSE_HOSTILE = [
    (([1.0], [0], [1 << 40]), "claim over"),
    (([1.0], [0], [-2]), "negative dim"),
    (([1.0], [0], [1 << 30]), "cannot spell out"),
    (([1.0], [9], [3, 3]), "out of range"),
    (([1.0], [-1], [3, 3]), "out of range"),
    (([1.0], [[0, 3]], [3, 3]), "out of range"),
    (([1.0, 2.0], [4, 4], [3, 3]), "sorted"),
    (([1.0, 2.0], [4, 3], [3, 3]), "sorted"),
    (([1.0, 2.0], [4], [3, 3]), r"i64\[1\], not i64\[2\]"),
    (([1.0], [[0, 0, 0]], [3, 3]), r"i64\[1, 2\]"),
    (([[1.0]], [[0, 0]], [3, 3]), "vector"),
]


@pytest.mark.parametrize(("parts", "message"), SPARSE_HOSTILE)
def test_hostile_sparse(parts, message):
    with pytest.raises(InvalidModel, match=f"{message}.*sparse"):
        sparse_from_proto(sparse(*parts)).dense("sparse tensor")


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_external_round_trip(dtype, tmp_path):
    arrays = [random_array(dtype, shape) for shape in [*SHAPES, (5000,)]]
    protos = []
    with ExternalWriter(tmp_path / "w.data") as writer:
        for array in arrays:
            placed = writer.append(Tensor.of(array))
            assert placed.offset % 64 == 0
            proto = TensorProto(data_type=dtype.value, dims=array.shape, name="w")
            proto.data_location = TensorProto.EXTERNAL
            for key, value in placed._asdict().items():
                proto.external_data.add(key=key, value=str(value))
            protos.append(proto)
        writer.commit()
    for array, proto in zip(arrays, protos, strict=True):
        tensor = Tensor.from_proto(proto, folder=tmp_path)
        assert bits(tensor.array()) == bits(array)
        read = TensorProto()
        read.CopyFrom(proto)  # which some versions of onnx read the data into
        assert bits(numpy_helper.to_array(read, str(tmp_path))) == bits(array)
        assert not tensor.array().flags.writeable
        assert tensor.same_bits(Tensor.of(array))
        assert tensor.digest() == Tensor.of(array).digest()
        assert tensor.to_proto("w") == Tensor.of(array).to_proto("w")
        assert tensor.location is not None
        assert tensor.location.file.path == tmp_path / "w.data"
        assert tensor.key == Tensor.from_proto(proto, folder=tmp_path).key


def test_no_view_can_change_an_interned_constant():
    array = np.zeros(4, np.float32)
    view = array[:]
    tensor = Tensor.of(array)
    key = tensor.key
    view[0] = 7
    assert tensor.array().tolist() == [0, 0, 0, 0]
    assert Tensor.of(np.zeros(4, np.float32)).key == key
