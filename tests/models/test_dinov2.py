"""DINOv2 against a dump of PyTorch; its files under both projects' names, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_dinov2 import CASES, made, pixels
from worldmodel import Tensor, pretrained
from worldmodel.models.dinov2 import DINOv2
from worldmodel.pretrained.dinov2 import state_of

DUMP = np.load(Path(__file__).parent.parent / "dumps" / "dinov2.npz")


@pytest.mark.parametrize("name", CASES)
def test_what_pytorch_said(kernels, name):
    options, shape = CASES[name]
    cls, registers, patches = made(**options)(Tensor(pixels(2, *shape)))
    assert (registers is None) == ("registers" not in options)
    for part, got in (("cls", cls.numpy()), ("patches", patches.numpy().mean(1))):
        want = DUMP[f"{name}.{part}"]
        assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


def test_a_picture_of_a_batch_has_the_bits_of_that_picture_alone():
    model, x = made(), pixels(3, 42, 56)
    whole = model(Tensor(x))[2].numpy()
    assert np.array_equal(model(Tensor(x[1:2]))[2].numpy()[0], whole[1])


def test_frames_are_normalised_as_imagenets():
    x = DINOv2("small", width=64, depth=1).pixels(np.full((1, 14, 14, 3), 255, np.uint8)).numpy()
    assert np.allclose(x[0, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-6)


@pytest.mark.parametrize("hf, prefix, way", [(True, "", "size"), (True, "dinov2.", "size"), (False, "", "hub")])
def test_files_are_recognised_by_their_names(tmp_path, hf, prefix, way):
    model = made(registers=4 if hf else 0)
    state = state_of(model, hf)
    if hf:
        assert state["encoder.layer.1.attention.attention.key.weight"].shape == (128, 128)
        assert state["embeddings.patch_embeddings.projection.weight"].shape == (128, 3, 14, 14)
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / "a.safetensors")
    back = pretrained.load(tmp_path / "a.safetensors")
    assert back._way == way
    mine = back.state_dict()
    assert all(np.array_equal(v, mine[k]) for k, v in model.state_dict().items())


HF_LAYER = """norm1.weight norm1.bias norm2.weight norm2.bias layer_scale1.lambda1 layer_scale2.lambda1
    attention.attention.query.weight attention.attention.query.bias attention.attention.key.weight
    attention.attention.key.bias attention.attention.value.weight attention.attention.value.bias
    attention.output.dense.weight attention.output.dense.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias"""
HF_REST = """embeddings.cls_token embeddings.mask_token embeddings.position_embeddings embeddings.register_tokens
    embeddings.patch_embeddings.projection.weight embeddings.patch_embeddings.projection.bias layernorm.weight
    layernorm.bias"""


def test_the_names_are_those_of_the_published_files():
    wanted = {f"encoder.layer.{i}.{name}" for i in (0, 1) for name in HF_LAYER.split()} | set(HF_REST.split())
    assert set(state_of(made(registers=4), True)) == wanted
    hub = set(state_of(made(registers=4), False))
    assert {"cls_token", "pos_embed", "register_tokens", "mask_token", "patch_embed.proj.weight", "norm.bias"} <= hub
    assert {"blocks.0.attn.qkv.bias", "blocks.1.ls2.gamma", "blocks.0.mlp.fc2.weight", "blocks.0.norm1.bias"} <= hub


def test_one_error_lists_all_that_is_wrong(tmp_path):
    state = state_of(made(), True)
    del state["layernorm.bias"]
    state["classifier.weight"] = np.zeros((2, 2), np.float32)
    state["encoder.layer.0.layer_scale1.lambda1"] = np.zeros(3, np.float32)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError) as caught:
        pretrained.load(tmp_path / "a.safetensors")
    for words in ("missing layernorm.bias", "unknown classifier.weight", "lambda1: (3,) in the file, (128,) wanted"):
        assert words in str(caught.value)


def test_wrong_use():
    with pytest.raises(ValueError, match="multiples of 14, got 15x28"):
        made()(Tensor(pixels(1, 15, 28)))
    with pytest.raises(ValueError, match="size must be one of"):
        DINOv2("huge")
    with pytest.raises(ValueError, match="multiple of 64"):
        DINOv2("small", width=100)
