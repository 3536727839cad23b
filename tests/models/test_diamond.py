"""DIAMOND's networks as a world: against a dump of PyTorch, in environments, in training; and its files."""

import gymnasium as gym
import numpy as np
import pytest
import worldmodel as wm
from tiny_diamond import ACTIONS, SMALL, inputs, made
from worldmodel import Tensor
from worldmodel.models.diamond.denoiser import Solver
from worldmodel.pretrained import diamond
from worldmodel.pretrained.stored import Stored

cuda_too = True  # conftest: what PyTorch said is asked of emulated CUDA as well
DUMP = np.load(__file__.replace("models/test_diamond.py", "dumps/diamond.npz"))


def near(got, want, tolerance=2e-5):
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_what_pytorch_said(kernels):
    world, policy = made(**SMALL)
    d = world.dynamics
    noisy, context, _, one_hot = inputs((16, 16, 3))
    x, c, a = Tensor(noisy), Tensor(context), Tensor(one_hot)
    near(d.denoiser(x, Tensor(np.float32([0.01, 3])), c, a).numpy(), DUMP["said"])
    for order in (1, 2):
        near(d.denoiser.sample(x, c, a, Solver(order=order, bytes=False)).numpy(), DUMP[f"order{order}"])
    past = np.ascontiguousarray(context.reshape(2, 16, 16, 4, 3).transpose(0, 3, 1, 2, 4))
    before, after = (Tensor(np.ascontiguousarray(p)) for p in (past[:, :-1], past[:, 1:]))
    reward, end, _, _ = d.rew_end_model(before, Tensor(np.ascontiguousarray(one_hot[:, 1:])), after)
    near(reward.numpy(), DUMP["reward"])
    near(end.numpy(), DUMP["end"])
    none = Tensor(np.zeros((2, 48), np.float32))
    logits, value, _, _ = policy.actor_critic(Tensor(np.ascontiguousarray(past[:, 0])), none, none)
    near(logits.numpy(), DUMP["logits"])
    near(value.numpy(), DUMP["value"])


@pytest.mark.parametrize("order, churn", [(1, 0.0), (2, 0.0), (2, 3.0)])
def test_steps_through_bytes_are_theirs_bit_for_bit(order, churn, monkeypatch):
    """The network's answers given, every D is cut to bytes as the original does, (D + 1) / 2 * 255 toward 0, and Heun's
    second slope too: the same bytes, but where float64 lies within rounding of an edge."""
    denoiser, rng, shape, steps = made(**SMALL)[0].dynamics.denoiser, np.random.default_rng(0), (2, 16, 16, 3), 5
    solver = Solver(steps=steps, order=order, churn=churn)
    answers = [rng.normal(size=shape) for _ in range(steps * order)]
    noise, more = rng.normal(size=shape), [rng.normal(size=shape) for _ in range(denoiser.churned(solver))]

    def tensor(a):
        return Tensor(a.astype(np.float32))

    said = iter(answers)
    monkeypatch.setattr(type(denoiser), "forward", lambda self, *inputs: tensor(next(said)))
    got = denoiser.sample(tensor(noise), None, None, solver, [tensor(m) for m in more]).numpy()

    said, edge = iter(answers), np.zeros(shape, bool)

    def clean(x, sigma):
        total = sigma**2 + 0.3**2 + 0.5**2  # the offset's noise counts as noise, sigma_data is 0.5
        skip, out = 0.25 / total, 0.5 * (sigma**2 + 0.09) ** 0.5 / total**0.5
        levels = (np.clip(skip * x + out * np.float32(next(said)), -1, 1) + 1) / 2 * 255
        edge[np.abs(levels - levels.round()) < 1e-3] = True
        edge[(levels <= 0) | (levels >= 255)] = False
        return np.floor(levels) / 255 * 2 - 1

    x, churns = np.float64(np.float32(noise)), iter(more)
    sigmas = solver.sigmas()
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        high = now * (1 + (min(churn / steps, 2**0.5 - 1) if solver.churn_from <= now <= solver.churn_to else 0))
        if high > now:
            x = x + np.float32(next(churns)) * solver.spread * (high**2 - now**2) ** 0.5
        slope = (x - clean(x, now)) / high
        if order == 2 and then:
            second = x + slope * (then - high)
            slope = (slope + (second - clean(second, then)) / then) / 2
        x = x + slope * (then - high)
    assert edge.mean() < 0.05 and len(np.unique(got)) > 100
    whole = np.arange(256, dtype=np.uint8).astype(np.float32)
    assert np.isin(got, whole / np.float32(255) * 2 - 1).all(), "the last D, on the very numbers of their bytes"
    assert np.array_equal(got[~edge], ((x[~edge] + 1) / 2 * 255).round().astype(np.float32) / np.float32(255) * 2 - 1)


# ---- environments ----


def starts(n, seed=0, shape=(16, 16, 3)):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (n, 4, *shape)).astype(np.uint8)
    return frames, np.eye(ACTIONS, dtype=np.float32)[rng.integers(0, ACTIONS, (n, 4))]


@pytest.mark.parametrize("options", [{}, {"churn": 3.0}, {"order": 2}, {"drawn": True}])
def test_a_batch_is_its_lanes_and_a_snapshot_goes_on(options):
    world, _ = made()
    frames, actions = starts(3)
    many = world.sampler(3, **options)
    many.reset(frames, actions, [5, 6, 7])
    moves = np.eye(ACTIONS, dtype=np.float32)[np.random.default_rng(1).integers(0, ACTIONS, (4, 3))]
    steps = [many.step(m) for m in moves[:2]]
    snapshot = many.snapshot()
    steps += [many.step(m) for m in moves[2:]]
    for lane in range(3):
        alone = world.sampler(1, **options)
        alone.reset(frames[lane : lane + 1], actions[lane : lane + 1], [5 + lane])
        for m, step in zip(moves, steps, strict=True):
            got = alone.step(m[lane : lane + 1])
            assert np.array_equal(got.frames[0], step.frames[lane]) and got.rewards[0] == step.rewards[lane]
            assert got.termination[0] == step.termination[lane]
    many.restore(snapshot)
    again = [many.step(m) for m in moves[2:]]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(again, steps[2:], strict=True))
    if "drawn" in options:
        assert set(np.concatenate([s.rewards for s in steps])) <= {-1.0, 0.0, 1.0}


def test_it_steps_in_imagined_and_its_policy_plays():
    world, policy = made()
    env = gym.make("worldmodel/Imagined-v0", world=world, max_episode_steps=6)
    with pytest.raises(ValueError, match="no start frames"):
        gym.make("worldmodel/Imagined-v0", world=world).reset(seed=0)
    frames, _ = starts(1)
    frame, _ = env.reset(seed=0, options={"frames": frames[0]})
    state, first = None, np.array([True])
    for _ in range(3):
        (action,), state = policy(frame[None], first, state)
        assert env.action_space.contains(action)
        frame, reward, _, _, _ = env.step(action)
        first = np.array([False])
        assert frame.shape == (16, 16, 3) and -1 <= reward <= 1
    env.close()


def test_a_policy_forgets_where_an_episode_begins():
    _, policy = made()
    frames = starts(2)[0]
    _, state = policy(frames[:, 0], np.array([True, True]))
    _, went_on = policy(frames[:, 1], np.array([True, False]), state)
    _, anew = policy(frames[:1, 1], np.array([True]))
    assert np.array_equal(went_on["h"][0], anew["h"][0]) and not np.array_equal(went_on["h"][1], anew["h"][0])


def test_a_policy_is_saved_and_loaded(tmp_path):
    _, policy = made()
    policy.save(tmp_path / "p.safetensors")
    back = wm.Policy.load(tmp_path / "p.safetensors")
    frames, first = starts(2)[0][:, 0], np.array([True, True])
    assert type(back) is type(policy) and back(frames, first)[0] == policy(frames, first)[0]


# ---- learning ----


def test_parts_share_no_parameters_and_sizes_are_those_published():
    world, _ = made((64, 64, 3), "atari", outcome_channels=(16, 16), outcome_depths=(1, 1), lstm=8)
    parts = world.dynamics.parts()
    ids = [{id(t) for t in p} for p in parts.values()]
    assert not ids[0] & ids[1] and sum(map(len, ids)) == len(world.parameters())
    assert world.dynamics.denoiser.parameter_count() == 4_405_955 + 64 * (ACTIONS - 4)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": "XXL"}, "size must be"),
        ({"wide": 3}, "wide"),
        ({"context": 1}, "context"),
        ({"rollout": 0}, "rollout"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)


def test_solvers_settings_are_checked():
    for wrong in ({"steps": 0}, {"order": 3}, {"churn": -1.0}, {"low": 0.0}):
        with pytest.raises(ValueError, match="Solver"):
            Solver(**wrong)


# ---- files ----


def state_of(world, policy=None):
    out = diamond.state_of(world, policy)
    return {k: Stored("float32", v.shape, memoryview(np.ascontiguousarray(v)).cast("B")) for k, v in out.items()}


def test_names_and_layouts_go_out_and_come_back(tmp_path):
    world, policy = made(**SMALL)
    world.save(tmp_path / "agent.safetensors", format="torch-keys", policy=policy)
    names = wm.pretrained.read(tmp_path / "agent.safetensors")
    assert names["denoiser.inner_model.conv_in.weight"].shape == (32, 15, 3, 3)
    assert names["denoiser.inner_model.unet.u_blocks.0.resblocks.2.proj.weight"].shape == (32, 96, 1, 1)
    assert names["actor_critic.encoder.encoder.3.f.2.weight"].shape == (32, 16, 3, 3)
    back, acting = (k.load(tmp_path / "agent.safetensors") for k in (wm.World, wm.Policy))
    assert back.config.frame_shape == (16, 16, 3) and back.action_space.n == ACTIONS
    for a, b in ((world, back), (policy, acting)):
        mine = b.state_dict()
        assert all(np.array_equal(v, mine[k]) for k, v in a.state_dict().items())
    # the last frame's columns are theirs: (channels, rows, columns)
    w = names["actor_critic.lstm.weight_ih"].numpy().reshape(192, 32, 4, 4)
    assert np.array_equal(w.transpose(0, 2, 3, 1).reshape(192, -1), policy.actor_critic.lstm.weight_ih.numpy())


def test_one_error_lists_all_that_is_wrong():
    state = state_of(made(**SMALL)[0])
    gone, bent = "denoiser.inner_model.norm_out.norm.bias", "rew_end_model.head.2.weight"
    del state[gone]
    state["denoiser.extra"] = state[bent]
    state[bent] = Stored("float32", (3, 64), state[bent].data[: 3 * 64 * 4])
    with pytest.raises(ValueError) as caught:
        diamond.world_of(state)
    text = str(caught.value)
    assert f"missing {gone}" in text and "unknown denoiser.extra" in text
    assert f"misshapen {bent}: (3, 64) in the file, (5, 64) wanted" in text


def test_sizes_that_the_file_cannot_hold_are_refused_before_memory_is():
    state = state_of(made(**SMALL)[0])
    name = "denoiser.inner_model.cond_proj.0.weight"
    state[name] = Stored("float32", (1, 1 << 22), memoryview(bytes(1 << 24)))
    act = "denoiser.inner_model.act_emb.0.weight"
    state[act] = Stored("float32", (1, 1 << 20), memoryview(bytes(1 << 22)))
    with pytest.raises(ValueError, match="more numbers than it holds"):
        diamond.world_of(state)


def test_unknown_families_and_parts(tmp_path):
    world, policy = made(**SMALL)
    world.save(tmp_path / "world.safetensors", format="torch-keys")
    with pytest.raises(ValueError, match="missing actor_critic.actor_linear.weight"):
        wm.Policy.load(tmp_path / "world.safetensors")
    from safetensors.numpy import save_file

    save_file({"some.weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no family known here .*some.weight"):
        wm.World.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="'torch-keys'"):
        world.save(tmp_path / "x", format="onnx")
    with pytest.raises(ValueError, match="RecurrentPolicy"):
        world.save(tmp_path / "x", format="torch-keys", policy=object())
