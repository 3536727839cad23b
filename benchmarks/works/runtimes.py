"""runtimes: a PyTorch function in ONNX Runtime and OpenVINO, where they are installed; else fewer peers."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np


def exported(torch, function: Callable, inputs: tuple) -> bytes | None:
    """The function of tensors as an ONNX model; None without the exporter."""

    class Wrapped(torch.nn.Module):
        def forward(self, *x):
            return function(*x)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(Wrapped(), inputs, str(path), dynamo=False, opset_version=17)
        except Exception as error:
            print(f"no ONNX export: {type(error).__name__}: {str(error).splitlines()[0]}")
            return None
        return path.read_bytes()


def peers(
    torch, function: Callable, inputs: tuple, threads: int, bf16: bool = False
) -> dict[str, Callable[[], np.ndarray]]:
    """Calls of the same function on the same inputs, checked against PyTorch's result.  bf16: OpenVINO alone, told to
    compute in it (ONNX Runtime has no such kernels for a processor)."""
    model = exported(torch, function, inputs)
    if model is None:
        return {}
    arrays = [t.numpy() for t in inputs]
    if bf16:
        found = {"OpenVINO bf16": openvino(model, arrays, threads, "bf16")}
    else:
        found = {"ORT": onnx_runtime(model, arrays, threads), "OpenVINO": openvino(model, arrays, threads, "f32")}
    with torch.no_grad():
        wanted = function(*inputs).numpy()
    for name, call in found.items():
        if call is not None:
            np.testing.assert_allclose(call(), wanted, rtol=1e-2, atol=0.1 if bf16 else 1e-3, err_msg=name)
    return {name: call for name, call in found.items() if call is not None}


def onnx_runtime(model: bytes, arrays: list[np.ndarray], threads: int) -> Callable[[], np.ndarray] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
    return lambda: session.run(None, given)[0]


def openvino(model: bytes, arrays: list[np.ndarray], threads: int, numbers: str) -> Callable[[], np.ndarray] | None:
    """Told what to compute in ("f32" or "bf16"): left alone it chooses by the processor."""
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    try:
        import openvino as ov
    except ImportError:
        return None
    how = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": numbers,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.compile_model(ov.Core().read_model(model), "CPU", how).create_infer_request()
    given = dict(enumerate(arrays))
    return lambda: request.infer(given)[0]
