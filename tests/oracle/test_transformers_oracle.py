"""Open-Oasis and the class-conditional DiT against their PyTorch twins: blocks, whole networks, samplers, gradients,
training, files."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle tests compare with PyTorch: pip install '.[oracle]'")

import transformer_twins as twin  # noqa: E402
from bounds import both, close  # noqa: E402
from tiny_transformers import VAE, imagenet_dit, normal, oasis  # noqa: E402
from worldmodel import Tape, Tensor, World, ops, optim, pretrained  # noqa: E402
from worldmodel.models.imagenet_dit import SALT_STEP  # noqa: E402
from worldmodel.models.oasis.dynamics import alpha_bars  # noqa: E402
from worldmodel.pretrained import imagenet_dit as dit_file  # noqa: E402
from worldmodel.pretrained import oasis as oasis_file  # noqa: E402
from worldmodel.pretrained.keys import emptied  # noqa: E402
from worldmodel.sampling import streams  # noqa: E402


def state(model, keys):
    return emptied(dict(model.named_tensors()), keys(model))


def weights(model, keys, dtype, grad=False):
    return {k: torch.tensor(v, dtype=dtype, requires_grad=grad) for k, v in state(model, keys).items()}


def frames(B=2, T=4, shape=(4, 6, 8)):
    rng = np.random.default_rng(0)
    return normal(B, T, *shape), rng.integers(0, 1000, (B, T)).astype(np.float32), normal(B, T, 25, seed=2)


def test_oasis_blocks(kernels):
    model = oasis().dynamics.dit
    x, c = normal(4, 4, 6, 64), normal(4, 4, 64)
    time = ops.rotary_table(Tensor(np.arange(4, dtype=np.float32)), 32, 10000.0)
    got, _ = model.blocks[1](Tensor(x), Tensor(c), model._space, time, None)

    def theirs(d, x, c):
        return twin.oasis_block(weights(model, oasis_file.dit_keys, d), "blocks.1.", x, c, 2, (2, 3))

    close(got.numpy(), *both(theirs, x, c))


def test_oasis_forward(kernels):
    model = oasis().dynamics.dit
    x, t, a = frames(4)
    got, _ = model(Tensor(x), Tensor(t), Tensor(a))
    close(got.numpy(), *both(lambda d, *z: twin.oasis(weights(model, oasis_file.dit_keys, d), *z, 2), x, t, a))


def test_oasis_autoencoder(kernels):
    model = oasis().dynamics.vae
    x, z = np.tanh(normal(4, 16, 24, 3)), normal(4, 4, 6, 8)
    exact = both(lambda d, x: twin.encode(weights(model, oasis_file.vae_keys, d), x, 2).reshape(4, 4, 6, 8), x)
    close(model.encode(Tensor(x)).numpy(), *exact)
    exact = both(lambda d, z: twin.decode(weights(model, oasis_file.vae_keys, d), z.flatten(1, 2), 2, 4, 6), z)
    close(model.decode(Tensor(z)).numpy(), *exact)


def test_schedules_are_theirs():
    assert np.allclose(alpha_bars(), twin.sigmoid_bars(torch.float64).numpy(), rtol=1e-9)
    golden = {9: 0.996923, 14: 0.995321, 99: 0.960507, 499: 0.5, 799: 0.10432, 998: 0.0003}
    assert all(abs(alpha_bars()[i] - v) < 1e-4 for i, v in golden.items()) and 0 < alpha_bars()[999] < 1e-6
    golden = {0: 0.99995872, 9: 0.99936872, 14: 0.99887116, 99: 0.97209274, 499: 0.49384359, 799: 0.09404561}
    assert all(abs(alpha_bars("cosine")[i] - v) < 1e-7 for i, v in golden.items())


@pytest.mark.parametrize("held", [1, 3, 4])
@pytest.mark.parametrize("reuse", [True, False])
def test_ten_sampler_steps_with_given_noise(held, reuse):
    """Before the window is full, and when it is."""
    world = oasis()
    d = world.dynamics
    sampler = world.sampler(1, reuse=reuse)
    latents, noise, actions = normal(held, 4, 6, 8), normal(1, 1, 4, 6, 8, seed=3), normal(held + 1, 25, seed=4)
    got = sampler.denoised([0], Tensor(noise), latents[None], actions[None])[0]

    def theirs(dtype, x, noise, a):
        w = weights(d.dit, oasis_file.dit_keys, dtype)
        return twin.oasis_frame(w, x[None], noise, a[None], 2, 10, 5)[0, 0]

    close(got, *both(theirs, latents, noise, actions))


def test_oasis_gradients():
    model = oasis().dynamics
    x, _, a = frames()
    index = np.random.default_rng(5).integers(0, 1000, (2, 4))
    stream, seen = Tensor(np.arange(8, dtype=np.int32).reshape(2, 4)), Tensor(np.ones((2, 4), np.float32))
    with Tape() as tape:
        loss = model.loss(Tensor(x), index, Tensor(a), stream, seen)
    tape.backward(loss)
    level = Tensor(alpha_bars()[index].astype(np.float32))
    noisy = ops.noise(Tensor(x), stream, level, kind="ddpm", salt=304)
    target = ops.convert(Tensor(x), noisy, level, kind="ddpm", source="x", target="v").numpy()
    weight = ops.fused_snr_weight(level, kind="ddpm", target="v").numpy()

    def theirs(d):
        w = weights(model.dit, oasis_file.dit_keys, d, True)
        v = twin.oasis(w, *(torch.tensor(z, dtype=d) for z in (noisy.numpy(), index.astype(np.float32), a)), 2)
        error = (v - torch.tensor(target, dtype=d)).square().mean((2, 3, 4))
        said = (error * torch.tensor(weight, dtype=d)).mean()
        said.backward()
        return w, said.item()

    (wide, exact), (narrow, single) = theirs(torch.float64), theirs(torch.float32)
    assert abs(loss.item() - exact) <= 2 * abs(single - exact) + 1e-6 * exact
    keys = oasis_file.dit_keys(model.dit)
    for name, t in model.dit.named_parameters():
        close(keys[name].layout.go(np.array(t.grad)), wide[name].grad, narrow[name].grad, 3, 2e-6)


def test_ten_training_steps_of_oasis():
    model = oasis().dynamics
    x, _, a = frames()
    w = weights(model.dit, oasis_file.dit_keys, torch.float64, True)
    groups = [{"params": [p for p in w.values() if (p.ndim > 1) == y], "weight_decay": 0.1 * y} for y in (True, False)]
    theirs, ours = torch.optim.AdamW(groups, lr=1e-3), optim.AdamW(model.dit, lr=1e-3, weight_decay=0.1)
    t = np.full((2, 4), 300.0, np.float32)
    for step in range(10):
        with Tape() as tape:
            v, _ = model.dit(Tensor(x), Tensor(t), Tensor(a))
            loss = ops.mean(ops.square(v - Tensor(x)))
        tape.backward(loss)
        ours.step()
        said = (twin.oasis(w, *(torch.tensor(z).double() for z in (x, t, a)), 2) - torch.tensor(x)).square().mean()
        theirs.zero_grad()
        said.backward()
        theirs.step()
        assert abs(loss.item() - said.item()) < 2e-4 * said.item(), step


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_oasis_files_become_a_world(tmp_path, storage):
    """Their rotary frequencies, under many names, are among them."""
    world = oasis(dit=dict(latent=(18, 32, 4), width=64, heads=1), vae=dict(VAE, shape=(72, 128), latent=4, heads=1))
    d = world.dynamics
    dtype = getattr(torch, storage)
    parts = {k: torch.tensor(v).to(dtype) for k, v in state(d.dit, oasis_file.dit_keys).items()}
    time, space = 1e4 ** -(torch.arange(0, 64, 2) / 64), torch.pi * torch.linspace(1, 128, 16)
    for i in range(2):
        parts |= {f"blocks.{i}.t_attn.rotary_emb.freqs": time, f"blocks.{i}.s_attn.rotary_emb.freqs": space}
    torch.save({**parts, "spatial_rotary_emb.freqs": space}, tmp_path / "dit.pt")
    torch.save({k: torch.tensor(v) for k, v in state(d.vae, oasis_file.vae_keys).items()}, tmp_path / "vae.pt")
    with pytest.raises(ValueError, match="also give vae="):
        World.load(tmp_path / "dit.pt")
    back = World.load(tmp_path / "dit.pt", vae=tmp_path / "vae.pt", storage=storage)
    back.save(tmp_path / "world.safetensors")
    for w in (back, World.load(tmp_path / "world.safetensors")):
        mine = state(w.dynamics.dit, oasis_file.dit_keys)
        assert all(np.array_equal(mine[k], v.float().numpy()) for k, v in parts.items() if k in mine)
        assert w.dynamics._given == "labelled" and w.config.frame_shape == (72, 128, 3)
    assert type(pretrained.load(tmp_path / "vae.pt")).__name__ == "OasisVAE"
    back.save(tmp_path / "out.safetensors", format="torch-keys")
    from safetensors.torch import load_file

    out = load_file(tmp_path / "out.safetensors")
    once = {f"{axis}_rotary_emb.freqs" for axis in ("temporal", "spatial")}
    assert set(out) == {k for k in parts if "rotary" not in k} | once
    assert all(torch.equal(out[k], v.float()) for k, v in parts.items() if k in out)
    again = World.load(tmp_path / "out.safetensors", vae=tmp_path / "out.vae.safetensors")
    assert again.config.frame_shape == (72, 128, 3)
    with pytest.raises(ValueError, match="rotary frequencies"):
        torch.save({**parts, "temporal_rotary_emb.freqs": time * 2}, tmp_path / "bent.pt")
        World.load(tmp_path / "bent.pt", vae=tmp_path / "vae.pt")


# ---- the class-conditional DiT ----


def test_dit_blocks_and_forward(kernels):
    model = imagenet_dit()
    x, c = normal(8, 16, 64), normal(8, 64)
    exact = both(lambda d, x, c: twin.dit_block(weights(model, dit_file.keys_of, d), "blocks.1.", x, c, 2), x, c)
    close(model.blocks[1](Tensor(x), Tensor(c)).numpy(), *exact)
    x, t, y = normal(4, 8, 8, 4), np.float32([0, 10, 500, 999]), np.int32([0, 3, 10, 9])
    exact = both(lambda d, x, t: twin.dit(weights(model, dit_file.keys_of, d), x, t, torch.tensor(y).long(), 2), x, t)
    close(model(Tensor(x), Tensor(t), Tensor(y)).numpy(), *exact)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_samples_ten_steps(guidance):
    model, x = imagenet_dit(), normal(2, 8, 8, 4)

    def theirs(d, x):
        w = weights(model, dit_file.keys_of, d)
        return twin.dit_sample(w, x, torch.tensor([3, 7]), 2, 10, guidance)

    close(model.sample([3, 7], x, steps=10, guidance=guidance), *both(theirs, x))


@pytest.mark.parametrize("guidance, sigma", [(1.0, True), (4.0, True), (4.0, False)])
def test_dit_samples_with_learned_variances(guidance, sigma):
    model, x, steps = imagenet_dit(sigma=sigma), normal(2, 8, 8, 4), 10
    stream = Tensor(streams([5, 6]))
    noises = [torch.tensor(ops.normal(stream, salt=SALT_STEP + i, shape=x.shape).numpy()) for i in range(steps)]

    def theirs(d, x):
        w = weights(model, dit_file.keys_of, d)
        return twin.dit_sample_ddpm(w, x, torch.tensor([3, 7]), 2, steps, guidance, noises)

    got = model.sample([3, 7], x, steps=steps, guidance=guidance, method="ddpm", seed=5)
    close(got, *both(theirs, x))


def test_dit_gradients():
    model = imagenet_dit()
    x, t, y, seed = normal(3, 8, 8, 4), np.float32([1, 10, 500]), np.int32([0, 3, 3]), normal(3, 8, 8, 8, seed=4)
    with Tape() as tape:
        total = ops.sum(ops.mul(model(Tensor(x), Tensor(t), Tensor(y)), Tensor(seed)))
    tape.backward(total)

    def theirs(d):
        w = weights(model, dit_file.keys_of, d, True)
        out = twin.dit(w, torch.tensor(x, dtype=d), torch.tensor(t, dtype=d), torch.tensor(y).long(), 2)
        (out * torch.tensor(seed)).sum().backward()
        return w

    wide, narrow, keys = theirs(torch.float64), theirs(torch.float32), dit_file.keys_of(model)
    for name, p in model.named_parameters():
        close(keys[name].layout.go(np.array(p.grad)), wide[name].grad, narrow[name].grad, 3, 2e-6)


def test_dit_files(tmp_path):
    model = imagenet_dit()
    torch.save({k: torch.tensor(v) for k, v in state(model, dit_file.keys_of).items()}, tmp_path / "a.pt")
    back = pretrained.load(tmp_path / "a.pt", heads=2)
    mine = back.state_dict()
    assert all(np.array_equal(v, mine[k]) for k, v in model.state_dict().items())
