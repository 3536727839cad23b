"""unet: DIAMOND's world of Atari size (4 levels of 64 channels, depth 2, 4.4M parameters), whole env.steps.

PyTorch's side is tests/oracle/diamond_twin.py: eager in both memory orders, and compiled in the better one; it makes
the same frame, reward and end.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from closed_loop import Loop
from works.step import SHAPE
from works.versus import one_env, world_of

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "oracle"))


class Twin:
    """One environment of PyTorch's: the last frames, actions and the LSTM's state."""

    def __init__(self, torch, world, last: bool, compiled: bool = False):
        import diamond_twin
        from worldmodel.pretrained.diamond import state_of

        self.torch, self.twin = torch, diamond_twin
        order = torch.channels_last if last else torch.contiguous_format
        state = {k: torch.tensor(v) for k, v in state_of(world, None).items()}
        state = {k: t.to(memory_format=order) if t.ndim == 4 else t for k, t in state.items()}
        whole = diamond_twin.Weights(state)
        self.net, self.ends = whole / "denoiser" / "inner_model", whole / "rew_end_model"
        plain = type(self).plain = getattr(type(self), "plain", diamond_twin.inner_model)
        net = self.net
        self.inner = torch.compile(lambda *x: plain(net, *x)) if compiled else lambda *x: plain(net, *x)
        n, (H, W, C) = world.context, SHAPE
        self.context = torch.rand(1, n * C, H, W).mul(2).sub(1).to(memory_format=order)
        self.actions, self.h, self.order, self.channels = torch.zeros(1, n, dtype=torch.long), None, order, C

    def step(self):
        torch, twin = self.torch, self.twin
        twin.inner_model = lambda w, *x: self.inner(*x)
        with torch.no_grad():
            noise = torch.randn(1, self.channels, *SHAPE[:2]).to(memory_format=self.order)
            after = twin.sample(self.net, noise, self.context, self.actions, steps=3)
            pair = torch.stack([self.context[:, -self.channels :], after], 1)
            reward, end, self.h = twin.reward_end(self.ends, pair, self.actions[:, -1:], self.h)
            self.context = torch.cat([self.context[:, self.channels :], after], 1).to(memory_format=self.order)
            return after.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy(), reward, end


def loops(torch, quick: bool) -> Iterator[Loop]:
    world = world_of("edm", "atari")
    ours, peers = one_env(world)[0], {}
    if torch:
        peers = {"torch": Twin(torch, world, False).step, "channels-last": Twin(torch, world, True).step}
        if not quick:
            peers["compile"] = Twin(torch, world, True, compiled=True).step
    count = sum(t.size for t in world.dynamics.denoiser.parameters())
    name = f"UNet of Atari size ({count / 1e6:.1f}M), env.step"
    steps = 40 if quick else 1000
    yield Loop(name, ours, peers, 1, steps, goal=2.2, least=15.0, section="unet")
