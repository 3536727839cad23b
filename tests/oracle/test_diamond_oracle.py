"""DIAMOND against its PyTorch twin: every block and the whole forward at most twice PyTorch's own float32 error,
gradients three times; its sampler, a training step, and its files both ways."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle tests compare with PyTorch: pip install '.[oracle]'")

import diamond_twin as twin  # noqa: E402
from bounds import both, close, first  # noqa: E402
from tiny_diamond import ACTIONS, SMALL, inputs, made, pixels  # noqa: E402
from worldmodel import Policy, Tape, Tensor, World, ops, optim  # noqa: E402
from worldmodel.models.diamond import denoiser as edm  # noqa: E402
from worldmodel.pretrained.diamond import state_of  # noqa: E402


def weights(world, policy=None, dtype=torch.float64, grad=False):
    state = {k: torch.tensor(v, dtype=dtype, requires_grad=grad) for k, v in state_of(world, policy).items()}
    w = twin.Weights(state)
    return w / "denoiser" / "inner_model", w / "rew_end_model", w / "actor_critic"


BLOCKS = [
    ("d_blocks.0.resblocks.0", 32, False),
    ("d_blocks.1.resblocks.0", 32, True),
    ("d_blocks.1.resblocks.1", 64, True),
    ("mid_blocks.resblocks.1", 64, True),
    ("u_blocks.0.resblocks.0", 128, True),
    ("u_blocks.1.resblocks.1", 64, False),
]


@pytest.mark.parametrize("path, channels, attention", BLOCKS)
def test_blocks(kernels, path, channels, attention):
    world, _ = made(**SMALL)
    rng = np.random.default_rng(1)
    x, c = pixels(rng, 16, 8, 8, channels), pixels(rng, 16, 64)
    block = world.dynamics.denoiser.inner_model.unet
    for part in path.split("."):
        block = block[int(part)] if part.isdigit() else getattr(block, part)
    assert bool(block.attn) == attention

    def theirs(d, x, c):
        w = weights(world, dtype=d)[0] / "unet"
        for part in path.split("."):
            w = w / part
        return twin.residual(w, x, c)

    got = block(Tensor(x), Tensor(c)).numpy()
    exact, single = both(theirs, first(x), c)
    close(first(got), exact, single)


@pytest.mark.parametrize("shape, options", [((16, 16, 3), SMALL), ((15, 18, 3), SMALL), ((32, 32, 1), {})])
def test_denoiser(kernels, shape, options):
    world, _ = made(shape, **options)
    noisy, context, actions, one_hot = inputs(shape)
    act = torch.tensor(actions)
    for sigma in (0.002, 0.5, 20.0):
        level = np.full(2, sigma, np.float32)
        d = world.dynamics.denoiser
        said = d(Tensor(noisy), Tensor(level), Tensor(context), Tensor(one_hot))
        exact, single = both(
            lambda t, *x: twin.ask(weights(world, dtype=t)[0], *x, act), first(noisy), level, first(context)
        )
        close(first(said.numpy()), exact, single)
        clean = d.clean(said, Tensor(noisy), Tensor(level), bytes=False)
        exact, single = both(
            lambda t, *x: twin.denoised(weights(world, dtype=t)[0], *x, act, False),
            first(noisy),
            level,
            first(context),
        )
        close(first(clean.numpy()), exact, single)


@pytest.mark.parametrize("order, churn, steps", [(1, 0.0, 10), (2, 0.0, 10), (1, 2.0, 10), (2, 20.0, 10)])
def test_ten_sampler_steps_with_given_noise(order, churn, steps):
    world, _ = made(**SMALL)
    noise, context, actions, one_hot = inputs((16, 16, 3))
    rng = np.random.default_rng(3)
    more = [pixels(rng, 2, 16, 16, 3) for _ in range(steps)] if churn else []
    d = world.dynamics.denoiser
    solver = edm.Solver(steps=steps, order=order, churn=churn, bytes=False)
    assert d.churned(solver) == len(more)
    got = d.sample(Tensor(noise), Tensor(context), Tensor(one_hot), solver, [Tensor(m) for m in more])
    act = torch.tensor(actions)
    exact, single = both(
        lambda t, x, c, *m: twin.sample(weights(world, dtype=t)[0], x, c, act, steps, order, churn, m, False),
        first(noise),
        first(context),
        *map(first, more),
    )
    close(first(got.numpy()), exact, single)


def test_frames_are_cut_to_bytes_as_theirs_are():
    """All but the few numbers that lie within rounding of a byte's edge."""
    world, _ = made(**SMALL)
    noise, context, actions, one_hot = inputs((16, 16, 3))
    d = world.dynamics.denoiser
    got = d.sample(Tensor(noise), Tensor(context), Tensor(one_hot), edm.Solver(steps=1))
    want = twin.sample(
        weights(world)[0],
        torch.tensor(first(noise)).double(),
        torch.tensor(first(context)).double(),
        torch.tensor(actions),
        steps=1,
    )
    difference = np.abs(first(got.numpy()) - want.numpy()) * 127.5
    assert difference.max() < 1.01 and (difference > 0.01).mean() < 1e-3
    assert np.array_equal(ops.frames_u8(got).numpy() / 127.5 - 1, got.numpy().round(6)) or (
        np.abs(ops.frames_u8(got).numpy() / 127.5 - 1 - got.numpy()).max() < 1e-6
    )


def test_reward_and_end_over_time_and_step_by_step(kernels):
    world, _ = made(**SMALL)
    rng = np.random.default_rng(4)
    frames = np.clip(pixels(rng, 2, 6, 16, 16, 3), -1, 1)
    actions = rng.integers(0, ACTIONS, (2, 5))
    one_hot = np.eye(ACTIONS, dtype=np.float32)[actions]
    m = world.dynamics.rew_end_model
    before, after = np.ascontiguousarray(frames[:, :-1]), np.ascontiguousarray(frames[:, 1:])
    whole = m(Tensor(before), Tensor(one_hot), Tensor(after))
    act = torch.tensor(actions)
    exact, single = both(lambda d, x: twin.reward_end(weights(world, dtype=d)[1], x, act)[:2], first(frames))
    for i in range(2):
        close(whole[i].numpy(), exact[i], single[i])
    h = c = None
    for t in range(5):
        part = [Tensor(np.ascontiguousarray(a[:, t : t + 1])) for a in (before, one_hot, after)]
        reward, end, h, c = m(*part, h, c)
        assert np.array_equal(reward.numpy()[:, 0], whole[0].numpy()[:, t])
        assert np.array_equal(end.numpy()[:, 0], whole[1].numpy()[:, t])


def test_actor_critic(kernels):
    world, policy = made(**SMALL)
    rng = np.random.default_rng(5)
    frames, h, c = np.clip(pixels(rng, 64, 16, 16, 3), -1, 1), pixels(rng, 64, 48), pixels(rng, 64, 48)
    got = policy.actor_critic(Tensor(frames), Tensor(h), Tensor(c))

    def theirs(d, x, h, c):
        logits, value, (h, c) = twin.actor_critic(weights(world, policy, d)[2], x, (h, c), (1, 1, 0))
        return logits, value, h, c

    for ours, exact, single in zip(got, *both(theirs, first(frames), h, c), strict=True):
        close(ours.numpy(), exact, single)


# ---- learning ----


def grads_of(theirs, keys):
    return {k: np.asarray(theirs[k].grad.double()) for k in keys}


def test_gradients_of_both_losses():
    from worldmodel.pretrained.diamond import _world_keys

    world, _ = made(**SMALL)
    rng = np.random.default_rng(6)
    d, B = world.dynamics, 3
    frames = rng.integers(0, 256, (B, 6, 16, 16, 3)).astype(np.uint8)
    actions = rng.integers(0, ACTIONS, (B, 5))
    one_hot = np.eye(ACTIONS, dtype=np.float32)[actions]
    rewards, ends = rng.standard_normal((B, 5)).astype(np.float32), (rng.random((B, 5)) < 0.3).astype(np.float32)
    stream = Tensor(rng.integers(0, 1 << 30, (B, 4)).astype(np.int32))
    sigma = d.denoiser.sigmas(stream, 7)
    clean = frames.astype(np.float32) / 127.5 - 1
    with Tape() as tape:
        context = Tensor(np.ascontiguousarray(clean[:, 1:5].transpose(0, 2, 3, 1, 4).reshape(B, 16, 16, 12)))
        real, past = Tensor(np.ascontiguousarray(frames[:, 5])), Tensor(np.ascontiguousarray(one_hot[:, 1:]))
        loss, _ = d.denoiser.loss(real, context, past, Tensor(np.ones(B, np.float32)), sigma, stream, 8)
        judged = d.rew_end_model.losses(
            Tensor(clean), Tensor(one_hot), Tensor(rewards), Tensor(ends), np.ones((B, 5), np.float32)
        )
        total = loss + judged["reward"] + judged["termination"]
    tape.backward(total)
    noisy = ops.noise_frames(real, stream, sigma, kind="edm", salt=8, offset=0.3)[0].numpy()

    def theirs(dtype):
        inner, judge, _ = weights(world, None, dtype, grad=True)

        def of(a):
            return torch.tensor(np.asarray(a), dtype=dtype)

        act = torch.tensor(actions)
        said = twin.loss(
            inner, of(first(clean[:, 5])), of(first(noisy)), of(sigma.numpy()), of(first(context.numpy())), act[:, 1:]
        )
        parts = [said, *twin.reward_end_loss(judge, of(first(clean)), act, of(rewards), of(ends))]
        sum(parts).backward()
        return [p.item() for p in parts], inner.state

    (exact, wide), (single, narrow) = theirs(torch.float64), theirs(torch.float32)
    ours = [loss.item(), judged["reward"].item(), judged["termination"].item()]
    for a, b, c in zip(ours, exact, single, strict=True):
        assert abs(a - b) <= 2 * abs(c - b) + 1e-6 * abs(b)
    keys = _world_keys(world)
    for name, t in world.named_parameters():
        key = keys[name].names[0]
        got = keys[name].layout.go(np.array(t.grad))
        close(got, wide[key].grad, narrow[key].grad, times=3, floor=2e-6)


def test_ten_training_steps():
    """AdamW on both sides from the same weights, noise given: the losses go the same way."""
    world, _ = made(seed=3)
    rng = np.random.default_rng(7)
    d, B = world.dynamics, 4
    inner = weights(world, None, torch.float64, grad=True)[0]
    params = [p for k, p in inner.state.items() if k.startswith("denoiser") and "noise_emb" not in k]
    decays = [
        {"params": [p for p in params if (p.ndim > 1) == yes], "weight_decay": 1e-2 * yes} for yes in (True, False)
    ]
    theirs = torch.optim.AdamW(decays, lr=1e-3)
    ours = optim.AdamW(d.denoiser, lr=1e-3, weight_decay=1e-2, clip=1.0)
    real = rng.integers(0, 256, (B, 16, 16, 3)).astype(np.uint8)
    context, actions = np.clip(pixels(rng, B, 16, 16, 12), -1, 1), rng.integers(0, ACTIONS, (B, 4))
    one_hot, one = np.eye(ACTIONS, dtype=np.float32)[actions], Tensor(np.ones(B, np.float32))
    for step in range(10):
        stream = Tensor(np.stack([np.arange(B), np.zeros(B), np.zeros(B), np.full(B, step)], 1).astype(np.int32))
        sigma = d.denoiser.sigmas(stream, 7)
        with Tape() as tape:
            loss, _ = d.denoiser.loss(Tensor(real), Tensor(context), Tensor(one_hot), one, sigma, stream, 8)
        tape.backward(loss)
        ours.step()
        noisy, clean = (
            t.numpy() for t in ops.noise_frames(Tensor(real), stream, sigma, kind="edm", salt=8, offset=0.3)
        )
        arrays = [torch.tensor(a).double() for a in (first(clean), first(noisy), sigma.numpy(), first(context))]
        said = twin.loss(inner, *arrays, torch.tensor(actions))
        theirs.zero_grad()
        said.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        theirs.step()
        assert abs(loss.item() - said.item()) < 2e-4 * said.item(), f"step {step}: {loss.item()} and {said.item()}"


# ---- files ----


def test_their_files_become_a_world_and_a_policy_and_go_back(tmp_path):
    world, policy = made(**SMALL)
    state = {k: torch.tensor(v) for k, v in state_of(world, policy).items()}
    torch.save(state, tmp_path / "agent.pt")
    back, acting = World.load(tmp_path / "agent.pt"), Policy.load(tmp_path / "agent.pt")
    assert back.config.frame_shape == (16, 16, 3) and acting.frame_shape == (16, 16, 3)
    for a, b in ((world, back), (policy, acting)):
        mine = b.state_dict()
        assert all(np.array_equal(v, mine[k]) for k, v in a.state_dict().items())
    back.save(tmp_path / "out.safetensors", format="torch-keys", policy=acting)
    from safetensors.torch import load_file

    out = load_file(tmp_path / "out.safetensors")
    assert set(out) == set(state) and all(torch.equal(out[k], v) for k, v in state.items())
    assert World.load(tmp_path / "out.safetensors").config == back.config
