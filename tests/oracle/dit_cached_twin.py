"""The PyTorch twin with a cache of keys and values, as one would write it for speed: what benchmarks compare
with."""

import numpy as np
import torch
import torch.nn.functional as F
from dit_twin import Twin, angles, rms, turn
from worldmodel.diffusion import carried, level_features, mix


class CachedTwin(Twin):
    """n environments, caches full; keys are stored rotated (absolute places), new ones joined to them."""

    kept = {}

    @staticmethod
    def of(model, n):
        weights = {name: torch.tensor(t.numpy()) for name, t in model.named_tensors()}
        patch = model.patches.cut.weight.shape[1] << (model.config.levels if model.config.stem else 0)
        twin = CachedTwin(weights, model.config, model.frame_shape, model.patches.grid, patch)
        twin.objective, N, c = model.objective, model.tokens, model.config
        shape = (n, N, twin.heads, c.slots - 1, c.head_width)
        twin.caches = {i: [torch.randn(shape), torch.randn(shape)] for i in range(c.layers)}
        twin.turned = angles(torch.tensor([[float(c.slots)]]), c.head_width, 1000.0)
        twin.last, twin.at, twin.fresh = torch.zeros(n, 1, *model.frame_shape), 0, {}
        return twin

    def keep_modulations(self, c):
        """From now on those of this condition, computed once."""
        names = [name.removesuffix(".weight") for name in self.w if name.endswith("modulation.weight")]
        with torch.no_grad():
            self.kept = {name: self.linear(name, c) for name in names}

    def to_bfloat16(self):
        """Weights, caches and tables of angles: give it inputs in bfloat16 too."""
        self.w, self.kept = ({k: t.bfloat16() for k, t in d.items()} for d in (self.w, self.kept))
        self.caches = {i: [t.bfloat16() for t in pair] for i, pair in self.caches.items()}
        self.turned, self.space = ([t.bfloat16() for t in pair] for pair in (self.turned, self.space))

    def linear(self, name, x):
        return self.kept[name] if name in self.kept else super().linear(name, x)

    def time_attention(self, name, x):
        i = int(name.split(".")[1])
        x = x.transpose(1, 2)
        q, k, v = (self.heads_of(self.linear(f"{name}.{part}", x)) for part in "qkv")
        q, k = (
            turn(rms(q, self.w[name + ".q_scale"]), *self.turned),
            turn(rms(k, self.w[name + ".k_scale"]), *self.turned),
        )
        self.fresh[i] = (k, v)
        keys, values = (torch.cat([old, new], -2) for old, new in zip(self.caches[i], (k, v), strict=True))
        return F.scaled_dot_product_attention(q, keys, values).transpose(-3, -2).flatten(-2).transpose(1, 2)

    def one_pass(self, noisy, carry, mix, c):
        """The clean frames of one denoising pass; mix (4,1,1,1,1,1); c (n,1,width): the condition."""
        return self.body(noisy, carry if self.config.change else None, mix, c)[0]

    def mix(self, tau, level):
        """See diffusion.mix."""
        at, before = np.full((1, 1), tau, np.float32), np.full((1, 1), level, np.float32)
        return torch.from_numpy(mix(at, before, self.config.change))[..., None, None, None]

    def condition(self, tau, size, level, actions):
        at = np.full((len(actions), 1), tau, np.float32)
        waves, one = level_features(at, np.full_like(at, size), np.full_like(at, level), self.objective.sizes)
        z = self.vector(actions[:, None], torch.ones(len(actions), 1))
        return F.silu(
            self.told(torch.from_numpy(waves), torch.from_numpy(one)) + self.linear("condition.z", z)
        )

    def step(self, actions, steps, one_pass=None, level=0.98):
        """K denoising passes, the commit, bytes; no reward and no end: PyTorch does a little less."""
        one_pass = one_pass or self.one_pass
        carry = self.last * float(carried(np.float32(level)))
        y = torch.randn_like(self.last)
        for k in range(steps):
            said = one_pass(
                y, carry, self.mix(k / steps, level), self.condition(k / steps, 1 / steps, level, actions)
            )
            y = said if k == steps - 1 else y + (said.clamp(-1, 1) - y) / (steps - k)
        pixels = ((y + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        self.last = (pixels.float() / 127.5 - 1) * level + (1 - level) * torch.randn_like(y)
        one_pass(
            self.last,
            carry,
            self.mix(level, level),
            self.condition(level, 1 / self.objective.finest, level, actions),
        )
        for i, (k, v) in self.fresh.items():
            for cache, new in zip(self.caches[i], (k, v), strict=True):
                cache[..., self.at, :] = new[..., 0, :]
        self.at = (self.at + 1) % (self.config.slots - 1)
        return pixels.numpy()
