"""DINOv2 against its PyTorch twin, at its own and other sizes; gradients; positions; files of both names."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle tests compare with PyTorch: pip install '.[oracle]'")

import dinov2_twin as twin  # noqa: E402
from bounds import both, close, first  # noqa: E402
from tiny_dinov2 import made, pixels  # noqa: E402
from worldmodel import Tape, Tensor, ops, pretrained  # noqa: E402
from worldmodel.models.dinov2 import DINOv2, resizing  # noqa: E402
from worldmodel.pretrained.dinov2 import keys_of, state_of  # noqa: E402


def weights(model, dtype, grad=False):
    return {k: torch.tensor(v, dtype=dtype, requires_grad=grad) for k, v in state_of(model, hf=False).items()}


@pytest.mark.parametrize(
    "registers, way, gated, shape",
    [
        (0, "hub", False, (70, 70)),
        (0, "hub", False, (42, 98)),
        (0, "size", False, (112, 56)),
        (4, "hub", False, (42, 98)),
        (4, "size", False, (140, 140)),
        (1, "hub", True, (70, 70)),
    ],
)
def test_forward(kernels, registers, way, gated, shape):
    model, x = made(registers=registers, positions=way, gated=gated), pixels(3, *shape)

    def theirs(d, x):
        return twin.forward(weights(model, d), x, registers, way, 2)

    for ours, exact, single in zip(model(Tensor(x)), *both(theirs, first(x)), strict=True):
        if ours is not None:
            close(ours.numpy(), exact, single)


def test_blocks(kernels):
    model, x = made(), np.random.default_rng(0).standard_normal((4, 30, 128)).astype(np.float32)
    exact, single = both(lambda d, x: twin.block(weights(model, d), "blocks.1.", x, 2), x)
    close(model.blocks[1](Tensor(x)).numpy(), exact, single)


@pytest.mark.parametrize("before, after", [(37, 16), (37, 37), (5, 9), (16, 5), (37, 38), (7, 1)])
@pytest.mark.parametrize("smooth, offset", [(False, 0.0), (False, 0.1), (True, 0.0)])
def test_resizing_is_pytorchs(before, after, smooth, offset):
    eye = torch.eye(before, dtype=torch.float64)[None, None]
    how = {"scale_factor": ((after + offset) / before, 1.0)} if offset else {"size": (after, before)}
    want = torch.nn.functional.interpolate(eye, mode="bicubic", antialias=smooth, **how)[0, 0].numpy()
    assert np.abs(resizing(before, after, offset, smooth) - want).max() < 1e-6


@pytest.mark.parametrize("registers, shape", [(0, (42, 98)), (2, (70, 70))])
def test_gradients(registers, shape):
    model, x = made(registers=registers), pixels(2, *shape)
    seeds = [
        np.random.default_rng(i).standard_normal(s).astype(np.float32)
        for i, s in enumerate(((2, 128), (2, 21 if not registers else 25, 128)))
    ]
    with Tape() as tape:
        cls, _, patches = model(Tensor(x))
        total = ops.sum(ops.mul(cls, Tensor(seeds[0]))) + ops.sum(ops.mul(patches, Tensor(seeds[1])))
    tape.backward(total)

    def theirs(d):
        w = weights(model, d, True)
        cls, _, patches = twin.forward(w, torch.tensor(first(x), dtype=d), registers, "hub", 2)
        ((cls * torch.tensor(seeds[0])).sum() + (patches * torch.tensor(seeds[1])).sum()).backward()
        return w

    wide, narrow, keys = theirs(torch.float64), theirs(torch.float32), keys_of(model, False)
    for name, t in model.named_parameters():
        if name != "mask_token":
            close(keys[name].layout.go(np.array(t.grad)), wide[name].grad, narrow[name].grad, 3, 2e-6)


def test_the_published_small_model_at_224_pixels():
    """22M random parameters, 256 patches; seconds and memory in benchmarks/checkpoints.py."""
    model = DINOv2("small", registers=4)
    assert model.parameter_count() == 22_056_576 + 4 * 384
    x = pixels(1, 224, 224)
    for ours, exact, single in zip(
        model(Tensor(x)), *both(lambda d, x: twin.forward(weights(model, d), x, 4, "hub", 6), first(x)), strict=True
    ):
        close(ours.numpy(), exact, single)


@pytest.mark.parametrize("hf", [True, False])
@pytest.mark.parametrize("registers, gated", [(0, False), (4, True)])
def test_files_of_both_names(tmp_path, hf, registers, gated):
    model = made(registers=registers, gated=gated)
    state = {k: torch.tensor(v) for k, v in state_of(model, hf).items()}
    torch.save(state, tmp_path / "a.pt")
    back = pretrained.load(tmp_path / "a.pt")
    assert back._way == ("size" if hf else "hub")
    mine = back.state_dict()
    assert all(np.array_equal(v, mine[k]) for k, v in model.state_dict().items())
