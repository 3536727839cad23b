"""The readers of `.pt` and safetensors files: what they read, and what they refuse, by name."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_zip import archive, call, pickled, some_arrays, tensor
from worldmodel import pretrained
from worldmodel.pretrained.safetensors_file import parse_safetensors
from worldmodel.pretrained.torch_file import parse_torch


def same(state, arrays):
    assert set(state) == set(arrays)
    for name, a in arrays.items():
        got = state[name].numpy()
        assert got.dtype == a.dtype and np.array_equal(got, a), name


def refused(data, words):
    with pytest.raises(ValueError, match=words):
        parse_torch(memoryview(data))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_dict_of_tensors_is_read(protocol, tmp_path):
    arrays = some_arrays()
    (tmp_path / "a.pt").write_bytes(torch_zip.saved(arrays, protocol))
    same(pretrained.read(tmp_path / "a.pt"), arrays)


def test_nested_dicts_and_what_is_no_tensor():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    betas = (0.9, 0.99)
    value = {
        "model": {"w": tensor("0", a), "b": call("torch._utils._rebuild_parameter", tensor("1", b), True, {})},
        "epoch": 3,
        "lr": 1e-4,
        "name": "x",
        "none": None,
        "flag": True,
        "groups": [{"betas": betas}, {"betas": betas}],
        "moments": {0: tensor("1", b)},
    }
    state = parse_torch(memoryview(archive(pickled(value), {"0": a, "1": b})))
    same(state, {"model.w": a, "model.b": b, "moments.0": b})


def test_a_bare_tensor():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    same(parse_torch(memoryview(archive(pickled(tensor("0", a)), {"0": a}))), {"tensor": a})


def test_parts_of_a_storage_share_it_and_bfloat16_becomes_float32():
    a = np.arange(12, dtype=np.float32)
    half = (a.view(np.uint32) >> 16).astype(np.uint16)
    value = {
        "row": tensor("0", a, offset=4, shape=(2, 3)),
        "all": tensor("0", a),
        "none": tensor("0", a, shape=(0, 3)),
        "half": tensor("1", half, "bfloat16", offset=1, shape=(2,)),
    }
    state = parse_torch(memoryview(archive(pickled(value), {"0": a, "1": half})))
    same(state, {"row": a[4:10].reshape(2, 3), "all": a, "none": np.zeros((0, 3), np.float32), "half": a[1:3]})


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_is_executed():
    import os
    import subprocess

    for thing in (Evil(os.system, "true"), Evil(subprocess.Popen, ["true"]), Evil(eval, "1"), Evil(getattr, "x", "y")):
        for protocol in (2, 4):
            with pytest.raises(ValueError, match="is refused: tensors need none of it"):
                parse_torch(memoryview(archive(pickle.dumps({"a": thing}, protocol), {})))


@pytest.mark.parametrize(
    "value, words",
    [
        ({"a": call("torch.storage._load_from_bytes", b"x".decode())}, "_load_from_bytes"),
        ({"a": call("torch._utils._rebuild_tensor_v2", 1, 2)}, "not called like this"),
        ({"a": {1, 2}}, "refused"),
        ({"a": 1 << 80}, "10 bytes|11 bytes"),
        ({"a": (1,)}, "no tensors"),
        (7, "not a dict"),
    ],
)
def test_other_values_are_refused(value, words):
    refused(archive(pickled(value), {}), words)


def test_layouts_that_leave_their_storage_are_refused():
    a = np.arange(12, dtype=np.float32)

    def of(**how):
        return archive(pickled({"a": tensor("0", a, **how)}), {"0": a})

    refused(of(offset=5, shape=(2, 4)), "leave its storage")
    refused(of(offset=-1), "leave its storage")
    refused(of(shape=(12, 1 << 39)), "a shape must be")
    refused(of(shape=(1 << 30,), stride=(0,)), "not contiguous")
    refused(of(shape=(3, 4), stride=(1, 3)), "not contiguous")
    refused(of(shape=(3, 4), stride=(4,)), "strides must be 2")
    refused(of(shape=(-1,)), "a shape must be")
    refused(of(shape=(True,)), "a shape must be")
    refused(of(numbers=13), "48 bytes; 13 float32 wanted")
    refused(archive(pickled({"a": tensor("1", a)}), {"0": a}), "data/1 is missing")


def test_containers_that_hold_themselves_or_grow_are_refused():
    a = np.ones(1, np.float32)
    loop = {"t": tensor("0", a)}
    loop["me"] = loop
    refused(archive(pickled(loop), {"0": a}), "in themselves")
    for leaf in ((1, 2), (tensor("0", a),)):  # 12 floors of 200 references: 10^27 paths
        for _ in range(12):
            leaf = (leaf,) * 200
        refused(archive(pickled({"x": leaf}), {"0": a}), "no tensors|two places")
    deep = {"t": tensor("0", a)}
    for _ in range(20):
        deep = {"d": deep}
    refused(archive(pickled(deep), {"0": a}), "16 deep")


def test_archives_of_another_kind_are_refused():
    arrays = some_arrays()
    code = pickled({"a": tensor("0", arrays["conv.weight"])})
    storages = {"0": arrays["conv.weight"]}
    good = archive(code, storages)
    refused(archive(code, storages, method=zipfile.ZIP_DEFLATED), "compressed")
    refused(archive(code, storages, extra=[("constants.pkl", b".")]), "TorchScript")
    refused(archive(code, storages, extra=[("sub/data.pkl", b".")]), "one data.pkl, found 2")
    refused(good.replace(b"little", b"bigend"), "byte order")
    refused(good[:-30], "zip: ")
    refused(good[: len(good) // 2], "zip: no end")
    refused(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before 1.6")
    for cut in range(0, len(good), 7):
        with pytest.raises(ValueError):
            parse_torch(memoryview(good[:cut]))


def test_zip64_sizes_are_read():
    """What torch.save writes beyond 4 GB: every size in the zip64 fields."""
    a = np.arange(6, dtype=np.float32)
    parts, places, at = [], [], 0
    for name, data in (("r/data.pkl", pickled({"a": tensor("0", a)})), ("r/data/0", a.tobytes())):
        local = struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), 0)
        parts.append(local + name.encode() + data)
        places.append((name, len(data), at))
        at += len(parts[-1])
    directory = b""
    for name, n, where in places:
        extra = struct.pack("<2H3Q", 1, 24, n, n, where)
        directory += (
            struct.pack(
                "<4s6H3I5H2I",
                b"PK\1\2",
                45,
                45,
                0,
                0,
                0,
                0,
                0,
                0xFFFFFFFF,
                0xFFFFFFFF,
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                0xFFFFFFFF,
            )
            + name.encode()
            + extra
        )
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    same(parse_torch(memoryview(b"".join(parts) + directory + end64 + locator + end)), {"a": a})


# ---- safetensors ----


def test_safetensors_of_the_original_library_are_read(tmp_path):
    from safetensors.numpy import save_file

    arrays = some_arrays()
    save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "np"})
    same(pretrained.read(tmp_path / "a.safetensors"), arrays)


def of_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "header, words",
    [
        (b"{", "no JSON"),
        (b"[]", "no object"),
        (b"[" * 100_000, "no JSON"),
        (b"9" * 10_000, "no JSON|no object"),
        (b'{"a": 1, "a": 2}', "twice"),
        ({"a": 1}, "wanted dtype"),
        ({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, "refused"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "takes 8 bytes"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "leave the file"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, "a shape"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, "holes"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, "belong to no tensor"),
    ],
)
def test_damaged_headers_are_refused(header, words):
    with pytest.raises(ValueError, match=words):
        parse_safetensors(of_header(header, b"1234"))


def test_bfloat16_and_truncation(tmp_path):
    a = np.arange(4, dtype=np.float32)
    half = (a.view(np.uint32) >> 16).astype(np.uint16)
    data = of_header({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, half.tobytes())
    same(parse_safetensors(data), {"a": a.reshape(2, 2)})
    for n in range(len(data)):
        with pytest.raises(ValueError):
            parse_safetensors(data[:n])
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        pretrained.read(tmp_path / "empty")
    with pytest.raises(IsADirectoryError):
        pretrained.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        pretrained.read(tmp_path / "nowhere")


# ---- any bytes ----


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_any_pickle_is_read_or_refused(code):
    try:
        parse_torch(memoryview(archive(code, {"0": np.zeros(4, np.float32)})))
    except ValueError:
        pass


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=30))
def test_any_header_is_read_or_refused(header, data):
    for parse in (parse_safetensors, parse_torch):
        try:
            parse(of_header(header, data))
        except ValueError:
            pass


def test_two_thousand_mutants():
    import fuzz_readers

    for name in fuzz_readers.READERS:
        assert fuzz_readers.run(name, 2000, seed=1)["inputs"] == 2000
