"""step: one cached pass of a DiT, and whole steps of imagined environments, against the same weights in
PyTorch.

PyTorch's side keeps keys and values too (rotated once, new ones joined to them) and runs eager or through
torch.compile.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measure import Work
from works.linear import torch_module
from works.runtimes import peers as exported
from worldmodel import _core, diffusion
from worldmodel.models.dit import DiT
from worldmodel.quantize import layers_for, set_products
from worldmodel.tensor import Tape, Tensor

PASSES = [
    ("d384 L8, 64 tokens", 384, 8, 2.0),
    ("d256 L8, 64 tokens", 256, 8, 2.0),
    ("d384 L8, 256 tokens", 384, 4, 1.4),
]
"""(name, width, patch, goal against torch.compile); 64x64 frames"""

STEPS = [(1, 4, 2.5), (1, 2, None), (1, 1, None), (32, 4, 2.0)]
"""(batch, denoising steps, goal); times are per frame"""

SHAPE, FEATURES = (64, 64, 3), 4
MIX = diffusion.mix(np.full((1, 1), 0.25, np.float32), np.full((1, 1), 0.98, np.float32), True)


def awake(model: DiT, seed: int = 0) -> DiT:
    """Random gates, or the residual branches would add zeros."""
    rng = np.random.default_rng(seed)
    for _, t in model.named_parameters():
        if not t.numpy().any():
            t.numpy()[...] = rng.standard_normal(t.shape) * 0.02
    return model


def pass_flop(model: DiT) -> float:
    """Multiply-adds of one denoising pass of one frame, times two: products, attention and convolutions."""
    c, N, d = model.config, model.tokens, model.config.width
    hidden = model.blocks[0].down.weight.shape[1]
    block = N * (4 * d * d + 3 * hidden * d) + 2 * N * N * d
    time = model.time_layers * (N * 4 * d * d + 2 * N * c.slots * d)
    ends = model.patches.cut.weight.size * N + model.patches.out.weight.size * N
    around = 0
    if c.stem:
        p = model.patches
        around = p.first.weight.size * N * (p._patch << (c.levels - 1)) ** 2
        for i in range(c.levels):
            pixels = N * (p._patch << (c.levels - 1 - i)) ** 2
            blocks = [p.before[i], p.after[i + 1]] + ([p.after[0]] if i == 0 else [])
            around += pixels * sum(b.first.weight.size + b.second.weight.size for b in blocks)
            around += pixels * (p.last.weight.size if i == 0 else 0)
            if i:
                around += pixels * p.shrink[i - 1].weight.size + 4 * pixels * p.grow[i - 1].weight.size
    return 2.0 * (c.layers * block + time + ends + around)


def one_pass(model: DiT, modulated: bool):
    """Our plan of one denoising pass over full caches; modulated: what the condition makes of the blocks is computed
    before, as env.step does for all its passes (models/dit_conditions.py), else in the pass."""
    c, N, d, n = model.config, model.tokens, model.config.width, 1
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return Tensor(rng.standard_normal(shape).astype(np.float32))

    caches = [(numbers(n, c.slots, N, d), numbers(n, c.slots, N, d)) for _ in range(model.time_layers)]
    position = Tensor(np.full(n, 100, np.int32))
    noisy, carried, condition = numbers(n, 1, *SHAPE), numbers(n, 1, *SHAPE), numbers(n, 1, d)
    m = model.modulate(condition)
    with Tape(grad=False) as tape:
        m = m if modulated else model.modulate(condition)
        out, _ = model.predict(noisy, carried, MIX, m, model.cached_time(caches, position), features=False)
    return tape.plan(out), (noisy, carried, condition)


def given_to(torch, inputs):
    """The arguments of the twin's pass."""
    noisy, carried, condition = (torch.from_numpy(t.numpy()) for t in inputs)
    return noisy, carried, torch.from_numpy(MIX)[..., None, None, None], condition


def peers_of(torch, model: DiT, inputs, quick: bool, modulated: bool = False):
    """The twin, its pass of some arguments, those, and calls of it, eager and compiled; modulated: see one_pass."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "oracle"))
    from dit_cached_twin import CachedTwin

    twin = CachedTwin.of(model, len(inputs[0]))
    said, given = twin.one_pass, given_to(torch, inputs)
    if modulated:
        twin.keep_modulations(given[-1])
        said, given = partial(twin.one_pass, c=given[-1]), given[:-1]
    return twin, said, given, calls(torch, said, given, quick)


def calls(torch, said, given, quick: bool, kind: str = ""):
    """A function of tensors, eager and compiled."""
    functions = {"torch" + kind: torch.no_grad()(lambda: said(*given))}
    if not quick:
        compiled = torch.compile(said)
        functions["compile" + kind] = torch.no_grad()(lambda: compiled(*given))
    return functions


def passes(torch, quick: bool, runtimes: bool = False) -> Iterator[Work]:
    """runtimes: ONNX Runtime and OpenVINO too."""
    for name, width, patch, goal in PASSES[1 if quick else 0 : 2 if quick else 3]:
        model = awake(DiT(SHAPE, FEATURES, "S", width=width, patch=patch, stem=0, outcome="start"))
        largest = (width, patch) == (384, 8)
        for modulated in (True, False) if largest else (True,):
            plan, inputs = one_pass(model, modulated)
            peers = {}
            if torch:
                _, said, given, peers = peers_of(torch, model, inputs, quick, modulated)
                peers |= exported(torch, said, given, torch.get_num_threads()) if runtimes else {}
            against = ("compile",) if "compile" in peers else ()
            what = f"DiT {name}, one cached pass" + ("" if modulated else " with its modulations")
            yield Work(what, "GFLOP/s", pass_flop(model), plan.run, peers, goal, against=against)
        if largest:
            yield from rounded(torch, model, name, quick, runtimes)


def rounded(torch, model: DiT, name: str, quick: bool, runtimes: bool) -> Iterator[Work]:
    """The pass in bfloat16, against peers in bfloat16, and in int8, against ours in bfloat16; and in float32."""
    plain, inputs = one_pass(model, True)
    peers = bfloat16_peers(torch, model, inputs, quick, runtimes) if torch else {}
    for numbers in ("bf16", "int8"):
        set_products(model, layers_for(model, numbers), numbers)
        plan, what = one_pass(model, True)[0], f"DiT {name}, one cached pass, {numbers}"
        yield Work(what, "GFLOP/s", pass_flop(model), plan.run, peers | {"float32": plain.run}, limit=None)
        peers = {"bf16": plan.run}


def bfloat16_peers(torch, model: DiT, inputs, quick: bool, runtimes: bool):
    """The twin with all its numbers in bfloat16, and OpenVINO told to compute in it."""
    twin, said, given, _ = peers_of(torch, model, inputs, True, True)
    found = exported(torch, said, given, torch.get_num_threads(), bf16=True) if runtimes else {}
    twin.to_bfloat16()
    return calls(torch, said, [t.bfloat16() for t in given], quick, " bf16") | found


def step(torch, quick: bool, n: int, K: int, goal: float | None) -> Work:
    """A whole step through Python: actions in, uint8 frames out."""
    model = awake(DiT(SHAPE, FEATURES, "S"))
    sampler = model.sampler(n, steps=K)
    sampler.reset(np.zeros((n, 4, *SHAPE), np.uint8))
    actions = np.eye(FEATURES, dtype=np.float32)[np.zeros(n, int)]
    peers = {}
    if torch:
        inputs = [
            Tensor(np.zeros(shape, np.float32))
            for shape in 2 * [(n, 1, *SHAPE)] + [(n, 1, model.config.width)]
        ]
        twin = peers_of(torch, model, inputs, True)[0]
        given = torch.from_numpy(actions)
        peers["torch"] = torch.no_grad()(lambda: twin.step(given, K))
        if not quick:
            fast = torch.compile(twin.one_pass)
            peers["compile"] = torch.no_grad()(lambda: twin.step(given, K, fast))
    name = f"world S, 64x64, env.step, K={K}, batch {n}"
    return Work(name, "ms", 0, lambda: sampler.step(actions), peers, goal=goal, limit=None, calls=n)


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    _core.set_threads(threads)
    yield from passes(torch, quick)
    for n, K, goal in STEPS[:1] if quick else STEPS:
        yield step(torch, quick, n, K, goal)
