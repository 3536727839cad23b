"""torch_zip: files like those of torch.save, written without PyTorch, for tests of the reader."""

import io
import pickle
import zipfile

import numpy as np

STORAGE = {
    "float32": "Float",
    "float16": "Half",
    "float64": "Double",
    "int64": "Long",
    "uint8": "Byte",
    "bfloat16": "BFloat16",
}


class _Global:
    """Pickles as a bare name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Call:
    """Pickles as a call of a name, which may be any."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class _Storage:
    def __init__(self, kind, key, numbers):
        self.said = ("storage", _Global("torch", kind + "Storage"), key, "cpu", numbers)


class _Pickler(pickle._Pickler):
    """Python's own pickler, which may name what is not importable."""

    def persistent_id(self, obj):
        return obj.said if isinstance(obj, _Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


def pickled(value, protocol=2):
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return out.getvalue()


def call(word, *arguments):
    module, _, name = word.rpartition(".")
    return _Call(_Global(module, name), *arguments)


def tensor(key, array, dtype=None, offset=0, shape=None, stride=None, numbers=None):
    """A tensor over storage `key`; the array's own layout unless said otherwise."""
    shape = tuple(array.shape) if shape is None else shape
    step, strides = 1, []
    for n in reversed(shape):
        strides.append(step)
        step *= n
    stride = tuple(reversed(strides)) if stride is None else stride
    storage = _Storage(STORAGE[dtype or str(array.dtype)], key, array.size if numbers is None else numbers)
    return call(
        "torch._utils._rebuild_tensor_v2", storage, offset, shape, stride, False, call("collections.OrderedDict")
    )


def archive(code, storages, root="archive/", method=zipfile.ZIP_STORED, extra=()):
    """The zip file: data.pkl, byteorder, the storages."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        z.writestr(root + "data.pkl", code)
        z.writestr(root + "byteorder", b"little")
        for key, array in storages.items():
            z.writestr(f"{root}data/{key}", array.tobytes())
        for name, data in extra:
            z.writestr(root + name, data)
    return out.getvalue()


def saved(arrays, protocol=2):
    """What torch.save of a dict of these arrays would write."""
    value = {name: tensor(str(i), a) for i, (name, a) in enumerate(arrays.items())}
    return archive(pickled(value, protocol), {str(i): a for i, a in enumerate(arrays.values())})


def some_arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "norm.bias": rng.standard_normal(5).astype(np.float16),
        "count": np.array(7, np.int64),
        "mask": rng.integers(0, 255, (2, 3)).astype(np.uint8),
    }
