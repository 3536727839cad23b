"""Families and their files: what is recognised; and files of any sizes and names are refused with ValueError, without
asking for more memory than they hold."""

import random
import tracemalloc

import numpy as np
import pytest
import tiny_diamond
import tiny_dinov2
import tiny_transformers
import worldmodel as wm
from safetensors.numpy import save_file
from worldmodel.cli import main
from worldmodel.pretrained import diamond, dinov2, imagenet_dit, oasis, oasis_vae
from worldmodel.pretrained.families import recognised
from worldmodel.pretrained.keys import emptied
from worldmodel.pretrained.stored import Stored


def stored(arrays):
    return {k: Stored("float32", v.shape, memoryview(np.ascontiguousarray(v)).cast("B")) for k, v in arrays.items()}


def oasis_parts(**sizes):
    d = tiny_transformers.oasis(**sizes).dynamics
    dit = emptied(dict(d.dit.named_tensors()), oasis.dit_keys(d.dit))
    return dit, emptied(dict(d.vae.named_tensors()), oasis.vae_keys(d.vae))


@pytest.fixture(scope="module")
def states():
    dit, vae = oasis_parts()
    return {
        diamond: stored(diamond.state_of(*tiny_diamond.made())),
        dinov2: stored(dinov2.state_of(tiny_dinov2.made(registers=2))),
        oasis: stored(dit),
        oasis_vae: stored(vae),
        imagenet_dit: stored(imagenet_dit.state_of(tiny_transformers.imagenet_dit())),
    }


def test_each_family_is_recognised_and_made(states):
    for family, state in states.items():
        assert recognised(state) is family
    makers = ((diamond, diamond.world_of), (diamond, diamond.policy_of), (dinov2, dinov2.model_of))
    for family, make in makers:
        assert make(states[family]).parameter_count() > 0


def bent(rng, state):
    """A few tensors missing, renamed, or of other sizes: halved, doubled, emptied, turned, huge in name only."""
    state = dict(state)
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(sorted(state))
        old, kind = state.pop(name), rng.randrange(6)
        if kind == 0:
            continue
        if kind == 1:
            name = name[: rng.randrange(1, len(name))] + rng.choice(["", "x", ".0", ".9.weight"])
        shape = list(old.shape)
        if kind == 2 and shape:
            shape[rng.randrange(len(shape))] = rng.choice([0, 1, 3, 7, 64])
        elif kind == 3:
            shape = shape[::-1]
        elif kind == 4:
            shape = shape[1:] if rng.random() < 0.5 else [1, *shape]
        elif kind == 5:
            shape = [n * 2 for n in shape]
        n = int(np.prod(shape))
        if n <= 1 << 22:
            state[name] = Stored("float32", tuple(shape), memoryview(bytes(4 * n)))
    return state


def test_files_of_any_sizes_are_made_or_refused(states):
    rng = random.Random(0)
    makers = {
        diamond: (diamond.world_of, diamond.policy_of),
        dinov2: (dinov2.model_of,),
        oasis: (oasis.model_of,),
        oasis_vae: (oasis_vae.model_of,),
        imagenet_dit: (imagenet_dit.model_of,),
    }
    tracemalloc.start()
    for family, state in states.items():
        size = sum(len(t.data) for t in state.values())
        for _ in range(60):
            wrong = bent(rng, state)
            tracemalloc.reset_peak()
            for make in makers[family]:
                try:
                    make(wrong)
                except ValueError:
                    pass
            assert tracemalloc.get_traced_memory()[1] < 100e6 + 20 * size
    tracemalloc.stop()


def test_a_world_of_two_files_by_the_command_line(tmp_path, capsys):
    sizes = dict(dit=dict(latent=(18, 32, 4), width=64, heads=1), vae=dict(shape=(72, 128), latent=4, heads=1))
    for name, part in zip(("dit", "vae"), oasis_parts(**sizes), strict=True):
        save_file(part, tmp_path / f"{name}.safetensors")
    files = ["--source", f"{tmp_path}/dit.safetensors", "--out", f"{tmp_path}/world.safetensors"]
    assert main(["convert", *files, "--vae", f"{tmp_path}/vae.safetensors", "--storage", "bfloat16"]) == 0
    world = wm.World.load(tmp_path / "world.safetensors")
    assert world.config.backbone == "oasis" and world.config.options["storage"] == "bfloat16"
    assert main(["convert", *files]) == 2 and "also give vae=" in capsys.readouterr().err
    assert main(["convert", *files, "--vae", f"{tmp_path}/dit.safetensors"]) == 2
    assert "not the autoencoder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="takes no size"):
        wm.pretrained.load(tmp_path / "vae.safetensors", size=3)
