"""recipes: how to call every kernel of kernels.def once, on sizes given by letters.

SIMPLE has a line per kernel: its pointers with their lengths as letters ("x:RC" is R rows of C numbers),
numbers by name.  Marks behind the letters: + positive, % between 0 and 1, <N integers below N, ! NULL.  What
takes packed weights, scratch memory or a structure has a function below.
"""

import ctypes as c
import re
from pathlib import Path

import numpy as np
from call import SIGNATURES, Table, read_structure

HEADER = (Path(__file__).resolve().parents[2] / "csrc" / "kernels" / "kernels.h").read_text()
Modulation, Conv, ConvEnd, Attention, HeadNorm, AdamwNumbers = (
    read_structure(HEADER, f"wm_{n}")
    for n in ("modulation", "conv", "conv_end", "attention", "head_norm", "adamw_numbers")
)

SIMPLE = """
linear_act_backward dv:n dout:n v:n act=1
linear_act_backward dv:n dout:n v:n act=2
linear_act_backward dv:n dout:n v:n act=3
linear_gated_backward dv:RN dgate:RN dresidual:RN dout:RN gate:RN v:RN G=R
linear_gated_backward dv:RN dgate:N dresidual:RN dout:RN gate:N v:RN G=1
swiglu_backward dv:RN2 dout:RN v:RN2
linear_dw dw:NK dv:RN x:RK
linear_db db:N dv:RN
cache_write cache:BLn frames:BTn position:B<9 pages! sinks=1 ring=L1 F=T
rotary_table cos:NAF sin:NAF position:NA index! base=100 pixel=0
rotary_table cos:NAF sin:NAF position! index:NA<50 base=100 pixel=0
rotary_table cos:NAF sin:NAF position:NA index! base=16 pixel=1
conv_end_backward dsum:n dout:n before:n act=1
conv_up_backward dx:BHWC dup:BHWC4 up=2
conv_add dx:n dout:n
sum_forward out:AB x:ARB scale=0.5
sum_into out:AB x:ARB scale=0.5
sum_backward dx:ARB dout:AB scale=0.5
var_forward out:AB mean:AB x:ARB correction=0
var_backward dx:ARB dout:AB mean:AB x:ARB correction=0
top_forward out:AB index:AB x:ARB sign=1
top_forward out:AB index:AB x:ARB sign=-1
top_backward dx:ARB dout:AB index:AB<R
cumsum_forward out:ARB x:ARB
cumsum_backward dx:ARB dout:ARB
reverse_scan_forward out:ATB a:ATB b:ATB% last:AB
reverse_scan_forward out:ATB a:ATB b:ATB% last!
reverse_scan_backward da:ATB db:ATB dlast:AB dout:ATB out:ATB b:ATB% last:AB
softmax_forward out:RC x:RC
softmax_backward dx:RC dout:RC out:RC
log_softmax_forward out:RC x:RC
log_softmax_backward dx:RC dout:RC out:RC
logsumexp_forward out:R x:RC
logsumexp_backward dx:RC dout:R out:R x:RC
log_prob_forward out:R log_sum:R x:RC index:R<C
log_prob_backward dx:RC dout:R log_sum:R x:RC index:R<C
entropy_forward out:R log_sum:R x:RC
entropy_backward dx:RC dout:R out:R log_sum:R x:RC
rows_copy out:RC to=C x:RC from=C item=4 width=C rows=R
rows_add d:RC to=C g:RC from=C width=C rows=R
rows_fill out:RC to=C value:4 item=4 width=C rows=R
gather_forward out:AMB x:ANB index:M<N item=4
gather_backward dx:ANB dout:AMB index:M<N
take_forward out:AMB x:ANB index:AMB<N item=4
take_backward dx:ANB dout:AMB index:AMB<N
embedding_forward out:MB table:NB index:M<N kind=0
sinusoidal_forward out:RD t:R scale=2 max_period=1000 sin_first=0
sinusoidal_backward dt:R dout:RD t:R scale=2 max_period=1000 sin_first=1
fourier_forward out:RD2 t:R w:D
fourier_backward dt:R dw:D dout:RD2 out:RD2 t:R w:D
axial_positions out:HWE max_period=1000 D=E
one_hot_forward out:MN index:M<N
uniform out:Sn stream:S4 low=-1 high=2 salt=3
normal out:Sn stream:S4 mean=1 std=2 salt=3
integers out:Sn stream:S4 low=-3 high=9 salt=3
bernoulli out:Sn p:Sn% stream:S4 salt=3
dropout_forward out:Sn keep:Sn x:Sn stream:S4 p=0.3 salt=3
dropout_backward dx:n dout:n keep:n<2 p=0.3
categorical out:SR weights:SRC logits:SRC stream:S4 salt=3
onehot_forward out:SRC p:SRC logits:SRC stream:S4 mix=0.1 salt=3
onehot_backward dlogits:RC dout:RC p:RC% mix=0.1
gaussian_forward out:Sn e:Sn mean:Sn log_std:Sn stream:S4 salt=3
gaussian_backward dmean:n dlog_std:n dout:n e:n log_std:n
tanh_gaussian_forward a:SRC log_prob:SR e:SRC mean:SRC log_std:SRC stream:S4 salt=3
tanh_gaussian_backward dmean:RC dlog_std:RC da:RC dlog_prob:R a:RC% e:RC log_std:RC
stream_advance stream:S4 by=7
huber_forward out:O pred:On target:On weight:O delta=1 scale=0.5 m=n
huber_backward dpred:On dtarget:On dout:O pred:On target:On weight:On delta=1 scale=0.5 m=1
bce_forward out:O logits:On target:On% weight! scale=0.5 m=1
bce_backward dlogits:On dout:O logits:On target:On% weight:O scale=0.5 m=n
row_loss_forward out:O loss:On weight:O scale=0.5 m=n
row_loss_backward drow:On dout:O weight:O scale=0.5 m=n
cross_entropy_forward loss:R log_sum:R x:RC index:R<C smoothing=0.1
cross_entropy_backward dx:RC drow:R log_sum:R x:RC index:R<C smoothing=0.1
soft_cross_entropy_forward loss:R log_sum:R x:RC target:RC% smoothing=0.1
soft_cross_entropy_backward dx:RC drow:R log_sum:R x:RC target:RC% smoothing=0.1
two_hot_bins out:Q high=20 symexp=1 K=Q
two_hot_bins out:Q high=20 symexp=0 K=Q
kl_categorical_forward loss:R p:RGC q:RGC free=0
kl_categorical_backward dp:RGC dq:RGC drow:R loss:R+ p:RGC q:RGC free=0.05
unimix_forward out:RC log_sum:R x:RC mix=0.1
unimix_backward dx:RC dout:RC out:RC log_sum:R x:RC mix=0.1
gaussian_log_prob_forward out:R x:RC mean:RC log_std:RC through_tanh=0
gaussian_log_prob_forward out:R x:RC mean:RC log_std:RC through_tanh=1
gaussian_log_prob_backward dx:RC dmean:RC dlog_std:RC dout:R x:RC mean:RC log_std:RC through_tanh=1
gaussian_entropy_forward out:R log_std:RC
kl_gaussian_forward loss:R mean_p:RC log_std_p:RC mean_q:RC log_std_q:RC
kl_gaussian_forward loss:R mean_p:RC log_std_p:RC mean_q! log_std_q!
kl_gaussian_backward dmean_p:RC dlog_std_p:RC dmean_q:RC dlog_std_q:RC drow:R mean_p:RC log_std_p:RC mean_q:RC log_std_q:RC
cosine_loss_forward loss:R x:RC y:RC
cosine_loss_backward dx:RC dy:RC drow:R x:RC y:RC
noise_frames noisy:SRP clean:SRP eps:SRP frames:SRP<256 stream:S4 level:SR% kind=0 offset=0 salt=3 C=1
noise_frames noisy:SRP clean:SRP eps! frames:SRP<256 stream:S4 level:SR+ kind=1 offset=0.1 salt=3 C=1
noise_floats noisy:SRP eps:SRP x:SRP stream:S4 level:SR% kind=2 offset=0 salt=3 C=1
noise_backward dx:RP dout:RP level:R% kind=0
convert_coefficients of:R y:R level:R% kind=0 from=0 to=1 data=0.5 offset=0
convert_coefficients of:R y:R level:R+ kind=1 from=2 to=0 data=0.5 offset=0.1
edm_coefficients in:R noise:R sigma:R+ data=0.5 offset=0.1
heun_coefficients coef:R4 level:R% next:R% kind=0 target=0 mode=0 data=0.5 offset=0
step_coefficients coef:R6 level:R% next:R% last! kind=0 target=0 as_size=0 eta=0 data=0.5 offset=0
levels_mix out:RP x:RP y:RP a:R b:R
levels_mix_backward dx:RP dy:RP dout:RP a:R b:R
step_forward out:SRP clean:SRP y:SRP pred:SRP prev:SRP stream:S4 coef:SR6 clip=1 to_bytes=0 salt=3
step_forward out:SRP clean! y:SRP pred:SRP prev! stream! coef:SR6 clip=0 to_bytes=0 salt=3
step_backward dy:RP dpred:RP dprev:RP dout:RP dclean:RP y:RP pred:RP coef:R6 clip=0
heun_forward out:RP x:RP pred:RP x2:RP pred2:RP coef:R4
heun_backward dx:RP dpred:RP dx2:RP dpred2:RP dout:RP coef:R4
level_weights w:R level:R% kind=0 law=0 target=0 value=5 data=0.5 offset=0
level_weights w:R level:R% kind=2 law=5 target=1 value=5 data=0.5 offset=0
fused_snr_weights w:BT level:BT% kind=0 target=0 clip=5 g=0.9
alpha_bar out:n t:n% law=0 steps=100 shift=1
alpha_bar out:n t:n% law=1 steps=100 shift=1
karras_sigmas sigma:m low=0.002 high=5 rho=7 n=m1
bytes_to_floats out:n x:n<256 low=-1 high=1
floats_to_bytes out:n x:n low=-1 high=1 cut=0
resize_forward out:BIJC rows:BIWC x:BHWC mode=0 OH=I OW=J
resize_forward out:BIJC rows:BIWC x:BHWC mode=1 OH=I OW=J
resize_backward dx:BHWC rows:BIWC dout:BIJC mode=1 OH=I OW=J
"""

SIZES = {
    "ones": {**dict.fromkeys("ABCDEFGHIJKLMNOPQRSTWmn", 1), "D": 2, "E": 4, "L": 2, "C": 1, "Q": 3, "m": 2},
    "primes": dict(A=3, B=2, C=17, D=10, E=20, F=5, G=3, H=7, I=5, J=11, K=37, L=5, M=7, N=13, O=5, P=19, Q=23, R=11, S=3, T=5, W=9, m=12, n=131),
    "edges": dict(A=2, B=3, C=65, D=66, E=64, F=33, G=2, H=16, I=9, J=31, K=65, L=9, M=33, N=49, O=3, P=257, Q=33, R=67, S=2, T=8, W=17, m=34, n=16385),
}  # fmt: skip
SCRATCH = {("categorical", "weights"), ("resize_forward", "rows"), ("resize_backward", "rows")}


def length(text: str, sizes: dict[str, int]) -> int:
    """ "RC2" -> R * C * 2."""
    return int(np.prod([int(ch) if ch.isdigit() else sizes[ch] for ch in text]))


def number(text: str, sizes: dict[str, int]) -> float:
    """0.5, R, or one less than it: R1."""
    if m := re.fullmatch(r"([A-Za-z])(1?)", text):
        return sizes[m[1]] - bool(m[2])
    return float(text)


def buffer(t: Table, kernel: str, word: tuple, text: str, sizes: dict[str, int]):
    kind, name, _, const = word
    letters, mark, rest = re.fullmatch(r"(\w+)([+%<]?)(\w*)", text).groups()
    n = length(letters, sizes)
    if name == "stream":
        stream = t.below(2**31 - 1, n)
        return stream if const else t.started(stream)
    if not const:
        if (kernel, name) in SCRATCH:
            return t.scratch(n)
        return t.out(n, dtype={"int32_t": np.int32, "uint8_t": np.uint8, "double": np.float64}.get(kind, np.float32))
    if mark == "<":
        return t.below(sizes.get(rest) or int(rest), n, dtype=np.uint8 if kind == "uint8_t" else np.int32)
    return t.levels(n) if mark == "%" else t.numbers(n, positive=mark == "+")


def simple(t: Table, line: str, sizes: dict[str, int]) -> None:
    kernel, *parts = line.split()
    given = dict(re.fullmatch(r"(\w+)([:=!].*)", p).groups() for p in parts)
    arguments = []
    for word in SIGNATURES[kernel][1]:
        kind, name, pointer, _ = word
        text = given.pop(name, None)
        if pointer:
            assert text, f"{kernel}: nothing for {name}"
            arguments.append(None if text == "!" else buffer(t, kernel, word, text[1:], sizes))
        else:
            value = number(text[1:], sizes) if text else sizes[name]
            arguments.append(value if kind in ("float", "double") else int(value))
    assert not given, f"{kernel} has no {list(given)}"
    result = getattr(t, kernel)(*arguments)
    if result is not None:
        t.results.append(np.array([result], np.float64))


# ---- what the simple lines cannot say -------------------------------------------------------------------


def pointwise(t: Table, s: dict[str, int]) -> None:
    """Every function of pointwise.def, found by its signature; binary ones with and without repeated
    inputs."""
    n, shape = s["n"], (s["F"], s["C"])
    for kernel, (_, words) in SIGNATURES.items():
        names = [w[1] for w in words]
        if names == ["out", "x", "a", "b", "n"]:
            getattr(t, kernel)(t.out(n), t.numbers(n, positive=True), 1.5, 2.5, n)
        elif names == ["dx", "dout", "x", "out", "a", "b", "n"]:
            getattr(t, kernel)(t.out(n), t.numbers(n), t.numbers(n, positive=True), t.levels(n), 1.5, 2.5, n)
        elif names == ["out", "a", "b", "shape", "sa", "sb", "ndim"]:
            dtype = np.uint8 if words[0][0] == "uint8_t" else np.float32
            for sa, sb in strides(shape):
                getattr(t, kernel)(t.out(*shape, dtype=dtype), t.numbers(*shape), t.numbers(*shape, positive=True),
                                   longs(t, shape), longs(t, sa), longs(t, sb), 2)  # fmt: skip
        elif names == ["da", "db", "dout", "a", "b", "shape", "sa", "sb", "ndim"]:
            for sa, sb in strides(shape):
                getattr(t, kernel)(t.out(*shape), t.out(*shape), t.numbers(*shape), t.numbers(*shape),
                                   t.numbers(*shape, positive=True), longs(t, shape), longs(t, sa), longs(t, sb), 2)  # fmt: skip
    mask = t.below(2, *shape, dtype=np.uint8)
    for sa, sb in strides(shape):
        same = longs(t, (shape[1], 1))
        t.where_forward(
            t.out(*shape),
            mask,
            t.numbers(*shape),
            t.numbers(*shape),
            longs(t, shape),
            same,
            longs(t, sa),
            longs(t, sb),
            2,
        )
    t.where_backward(t.out(*shape), t.out(*shape), t.numbers(*shape), mask, longs(t, shape), same, 2)


def longs(t: Table, values) -> np.ndarray:
    return t.given(np.array(values, np.int64))


def strides(shape):
    """Both whole; a row repeated; a column repeated."""
    whole = (shape[1], 1)
    return [(whole, whole), (whole, (0, 1)), ((1, 0), whole)]


def cast(t: Table, s: dict[str, int]) -> None:
    n, dtypes = s["n"], [np.float32, np.uint16, np.uint8, np.int32]
    for source, numbers in enumerate(
        [
            t.numbers(n, scale=100),
            t.below(0x4200, n, dtype=np.uint16),
            t.below(256, n, dtype=np.uint8),
            t.below(70000, n),
        ]
    ):
        for target in range(4):
            t.cast_forward(t.out(n, dtype=dtypes[target]), numbers, target, source, n)


def strided(t: Table, s: dict[str, int]) -> None:
    shape = (s["F"], s["R"], s["C"])
    permuted, x = (1, s["C"] * s["F"], s["F"]), t.numbers(s["R"], s["C"], s["F"])
    for stride in (permuted, (0, s["C"], 1)):
        t.strided_copy(t.out(*shape), x, 4, longs(t, shape), longs(t, stride), 3)
    t.strided_add(t.out(x.size), t.numbers(*shape), longs(t, shape), longs(t, permuted), 3)
    for item, dtype in ((1, np.uint8), (2, np.uint16)):
        bytes_ = t.below(255, x.size, dtype=dtype)
        t.strided_copy(t.out(*shape, dtype=dtype), bytes_, item, longs(t, shape), longs(t, permuted), 3)
        t.rows_copy(t.out(x.size, dtype=dtype), s["C"], bytes_, s["C"], item, s["C"], s["R"])
        t.gather_forward(
            t.out(s["M"] * s["C"], dtype=dtype),
            bytes_,
            t.below(s["R"], s["M"]),
            item,
            1,
            s["R"],
            s["M"],
            s["C"],
        )


def modulation(t: Table, factor, term, plus: float, rows: int, step: int) -> Modulation:
    t.keep = (factor, term)
    address = [None if a is None else a.ctypes.data for a in (factor, term)]
    return Modulation(*address, plus, rows, step, step)


def norm(t: Table, s: dict[str, int]) -> None:
    R, C = s["R"], s["C"]
    for rms, rows, plus in ((0, R, 0.0), (1, 1, 1.0), (0, 1, 1.0)):
        G = R // rows
        factor, term, x = t.numbers(G, C), t.numbers(G, C), t.numbers(R, C)
        m = modulation(t, factor, term, plus, rows, C)
        mean, rstd = t.out(R), t.out(R)
        t.norm_forward(t.out(R, C), mean, rstd, x, m, rms, 1e-5, R, C)
        mean, rstd = t.numbers(R), t.numbers(R, positive=True)
        room = t.scratch(2 * C * (G * ((rows + 63) // 64)))
        t.norm_backward(t.out(R, C), t.out(G, C), t.out(G, C), t.numbers(R, C), x, mean, rstd, m, rms, room, R, C)
        t.gate_forward(t.out(R, C), t.numbers(R, C), x, m, R, C)
        t.gate_backward(t.out(R, C), t.out(R, C), t.out(G, C), t.numbers(R, C), x, m, room, R, C)


def group_norm(t: Table, s: dict[str, int]) -> None:
    B, S, C, groups = s["B"], s["H"] * s["W"], 2 * s["C"], 2
    for silu in (0, 1):
        factor, term, x = t.numbers(B, C), t.numbers(B, C), t.numbers(B, S, C)
        m = modulation(t, factor, term, 1.0, S, C)
        room = t.scratch(B * t.group_norm_scratch(S, C))
        t.group_norm_forward(
            t.out(B, S, C), t.out(B * groups), t.out(B * groups), x, m, silu, 1e-5, room, B, S, C, groups
        )
        mean, rstd = t.numbers(B * groups), t.numbers(B * groups, positive=True)
        t.group_norm_backward(
            t.out(B, S, C),
            t.out(B, C),
            t.out(B, C),
            t.numbers(B, S, C),
            x,
            mean,
            rstd,
            m,
            silu,
            room,
            B,
            S,
            C,
            groups,
        )


def linear(t: Table, s: dict[str, int]) -> None:
    R, N, K = s["R"], s["N"], s["K"]
    x, w, b = t.numbers(R, K), t.numbers(N, K), t.numbers(N)
    half = t.given((w.view(np.uint32) >> 16).astype(np.uint16))
    for bf16, weight in ((0, w), (1, half)):
        assert t.linear_layout(bf16) is not None
        packed = t.scratch(t.linear_packed_bytes(bf16, N, K), np.uint8)
        t.linear_pack(packed, weight, bf16, N, K)
        for act in range(4):
            t.linear_forward(t.out(R, N), t.out(R, N), x, packed, b, bf16, act, R, N, K)
        t.linear_forward(t.out(R, N), None, x, packed, None, bf16, 0, R, N, K)
        for G in {1, R}:
            t.linear_gated_forward(
                t.out(R, N), t.out(R, N), x, packed, b, t.numbers(G, N), t.numbers(R, N), bf16, R, G, N, K
            )
        room = t.scratch(t.linear_packed_bytes(0, K, N), np.uint8).view(np.float32)
        t.linear_dx(t.out(R, K), room, t.numbers(R, N), weight, bf16, R, N, K)
        pair = t.numbers(2 * N, K)
        pair = t.given((pair.view(np.uint32) >> 16).astype(np.uint16)) if bf16 else pair
        packed = t.scratch(2 * t.linear_packed_bytes(bf16, N, K), np.uint8)
        t.swiglu_pack(packed, pair, bf16, N, K)
        t.swiglu_forward(t.out(R, N), t.out(R, 2 * N), x, packed, t.numbers(2 * N), bf16, R, N, K)


def rounded(t: Table, s: dict[str, int], numbers: str, x: np.ndarray) -> None:
    """The products of int8.c or bf16.c of x (R,K): plain, gated, and in pairs, by weights of either storage."""
    R, N, K = s["R"], s["N"], s["K"]

    def kernel(name: str):
        return getattr(t, name.format(numbers))

    w, b = t.numbers(N, K), t.numbers(N)
    half = t.given((w.view(np.uint32) >> 16).astype(np.uint16))
    room = t.scratch(kernel("linear_{}_room")(R, K), np.uint8)
    for bf16, weight in ((0, w), (1, half)):
        packed = t.scratch(kernel("linear_{}_bytes")(N, K), np.uint8)
        kernel("linear_{}_pack")(packed, weight, bf16, N, K)
        for act in range(4):
            kernel("linear_{}_forward")(t.out(R, N), room, x, packed, b, act, R, N, K)
        for G in {1, R}:
            gate, residual = t.numbers(G, N), t.numbers(R, N)
            kernel("linear_gated_{}_forward")(t.out(R, N), room, x, packed, b, gate, residual, R, G, N, K)
    pair = t.numbers(2 * N, K)
    packed = t.scratch(2 * kernel("linear_{}_bytes")(N, K), np.uint8)
    kernel("swiglu_{}_pack")(packed, pair, 0, N, K)
    kernel("swiglu_{}_forward")(t.out(R, N), room, x, packed, t.numbers(2 * N), R, N, K)


def int8(t: Table, s: dict[str, int]) -> None:
    """The rounding to whole numbers is the same in every table, so the results agree like floats."""
    rounded(t, s, "int8", t.numbers(s["R"], s["K"]))


def bf16(t: Table, s: dict[str, int]) -> None:
    """x has no more bits than bfloat16, so that tables that round it and those that do not agree like floats."""
    x = t.numbers(s["R"], s["K"]).view(np.uint32) & 0xFFFF0000
    rounded(t, s, "bf16", t.given(x.view(np.float32)))


def scan(t: Table, s: dict[str, int]) -> None:
    B, T, H = s["B"], s["T"], s["N"]
    reset = t.below(2, B, T, dtype=np.uint8)
    for name, gates, room, back in (("lstm", 4, 7, 5 * T + 3), ("gru", 3, 8, 4 * T + 1)):
        w = t.numbers(gates * H, H, scale=0.3)
        packed = t.scratch(t.linear_packed_bytes(0, gates * H, H), np.uint8).view(np.float32)
        t.linear_pack(packed, w, 0, gates * H, H)
        x, bias, h0, c0 = t.numbers(B, T, gates * H), t.numbers(gates * H), t.numbers(B, H), t.numbers(B, H)
        out, kept = t.out(B, T, H), t.out(B, T, 4 * H)
        cells = t.out(B, T, H) if gates == 4 else None
        states = [c0] if gates == 4 else []
        lasts = [t.out(B, H), t.out(B, H)][: gates - 2]
        extra = [cells] if gates == 4 else []
        getattr(t, name + "_forward")(
            out,
            *lasts,
            kept,
            *extra,
            t.scratch(room * B * H),
            x,
            packed,
            bias,
            h0,
            *states,
            reset,
            1,
            B,
            T,
            H,
        )
        rooms = t.scratch(B * H * back + t.linear_packed_bytes(0, H, gates * H) // 4 + 16)
        grads = [
            t.out(B, T, gates * H),
            t.out(gates * H, H),
            t.out(gates * H),
            t.out(B, H),
            *(t.out(B, H) for _ in states),
        ]
        douts = [t.numbers(B, T, H), *(t.numbers(B, H) for _ in lasts)]
        getattr(t, name + "_backward")(*grads, rooms, *douts, kept, *extra, out, w, h0, *states, reset, B, T, H)


def convolution(B, H, W, C, O, k, stride=1, up=1, padding=None) -> Conv:
    p = k // 2 if padding is None else padding
    OH, OW = (H * up + 2 * p - k) // stride + 1, (W * up + 2 * p - k) // stride + 1
    return Conv(B, H, W, C, OH, OW, O, k, k, stride, p, p, up, OH * OW * O, OW * O, O)


def conv(t: Table, s: dict[str, int]) -> None:
    B, H, W, C, O = 2, s["H"] + 3, s["W"] + 4, s["C"], s["N"]
    for k, stride, up in ((3, 1, 1), (1, 1, 1), (3, 2, 1), (3, 1, 2), (2, 2, 1)):
        v = convolution(B, H, W, C, O, k, stride, up, 0 if k == 2 else None)
        x, w, workers, wide = t.numbers(B, H, W, C), t.numbers(O, k, k, C, scale=0.3), 3, (O + 15) // 16 * 16
        packed = t.scratch(k * k * C * wide)
        t.conv_pack(packed, w, 0, O, k * k * C)
        shape = (B, v.OH, v.OW, O)
        bias, residual, before = t.numbers(O), t.numbers(*shape), t.out(*shape)
        end = ConvEnd(bias.ctypes.data, residual.ctypes.data, before.ctypes.data, 1, False)
        t.conv_direct(t.out(*shape), x, packed, end, t.scratch(workers * t.conv_direct_scratch(v)), workers, v)
        dout = t.numbers(*shape)
        t.conv_weight(t.out(O, k, k, C), dout, x, t.scratch(workers * t.conv_weight_scratch(v)), workers, v)
        t.conv_bias(t.out(O), dout, t.scratch((dout.size // O // 256 + 1) * O), dout.size // O, O)
        for py in range(stride):
            for px in range(stride):
                back = t.scratch(k * k * ((C + 15) // 16 * 16) * O)
                t.conv_pack_phase(back, w, 0, py, px, v)


def winograd(t: Table, s: dict[str, int]) -> None:
    B, H, W, C, O, workers = 2, s["H"] + 3, s["W"] + 4, 16 * ((s["C"] + 31) // 32), 32, 3
    v = convolution(B, H, W, C, O, 3)
    x, w, dout = t.numbers(B, H, W, C), t.numbers(O, 3, 3, C, scale=0.3), t.numbers(B, H, W, O)
    packed, back = t.scratch(36 * C * O), t.scratch(36 * ((C + 15) // 16 * 16) * O)
    t.winograd_pack(packed, w, 0, O, 9 * C)
    end = ConvEnd(None, None, None, 0, False)
    t.winograd_forward(t.out(B, H, W, O), x, packed, end, t.scratch(workers * t.winograd_scratch(v)), workers, v)
    t.winograd_pack_backward(back, w, 0, O, C)
    u = convolution(B, H, W, O, C, 3)
    t.winograd_forward(
        t.out(B, H, W, C),
        dout,
        back,
        ConvEnd(None, None, None, 0, True),
        t.scratch(workers * t.winograd_scratch(u)),
        workers,
        u,
    )
    t.winograd_weight(t.out(O, 3, 3, C), dout, x, t.scratch(t.winograd_weight_scratch(v)), v)


def attention(t: Table, s: dict[str, int]) -> None:
    outer, Nq, H, G, D = s["B"], s["R"], 2, 2, 2 * s["K"]  # G heads share one of keys
    for mask, Nk, inner, lengths in (
        (0, s["M"], 1, 0),
        (1, Nq, 2, 0),
        (2, Nq, 1, 0),
        (3, Nq, 1, 0),
        (0, s["M"], 1, outer),
    ):
        a = Attention(outer, inner, Nq, Nk, H, G, D, H * D, D, D, mask, 3, 1, lengths, 0, 0, 0, False, D**-0.5)
        q, k, v = (
            t.numbers(outer, Nq, inner, H * D),
            t.numbers(outer, Nk, inner, D),
            t.numbers(outer, Nk, inner, D),
        )
        keys = t.below(Nk, outer) if lengths else None
        out, lse = t.out(*q.shape), t.scratch(outer * inner * H * Nq)
        t.attention_forward(out, lse, q, k, v, keys, a)
        t.attention_backward(
            t.out(*q.shape), t.out(*k.shape), t.out(*v.shape), t.numbers(*q.shape), out, lse, q, k, v, keys, a
        )
    ring, sinks, n = s["L"], 1, s["F"]
    a = Attention(outer, n, 1, sinks + ring, H, G, D, H * D, D, D, 0, 0, 1, 0, sinks, ring, D // 2, False, D**-0.5)
    caches = [t.numbers(outer, sinks + ring, n, D) for _ in "kv"]
    tables = [t.numbers(sinks + ring, D // 2) for _ in "cs"]
    pages = t.below(outer * (sinks + ring), outer, sinks + ring)
    for cos, sin, where in ((None, None, None), (*tables, None), (*tables, pages)):
        q = t.numbers(outer, 1, n, H * D)
        t.attention_cached(t.out(outer, 1, n, H * D), q, *caches, t.below(20, outer), cos, sin, where, a)


def head_norm(t: Table, s: dict[str, int]) -> None:
    R, H, D = s["R"], 2, 2 * s["K"]
    for kind, interleaved in ((0, False), (1, False), (2, True)):
        a = HeadNorm(R, H, D, H * D + 3, 1, R, D // 2, kind, interleaved, 1e-6)
        x, cos, sin, scale = (
            t.numbers(R * (H * D + 3)),
            t.numbers(R, D // 2),
            t.numbers(R, D // 2),
            t.numbers(D),
        )
        t.head_norm_forward(t.out(R, H * D), x, cos, sin, scale, a)
        t.head_norm_backward(
            t.out(R * (H * D + 3)), t.out(D), t.scratch(32 * D), t.numbers(R, H * D), x, cos, sin, scale, a
        )


def two_hot(t: Table, s: dict[str, int]) -> None:
    R, K = s["R"], s["Q"]
    bins, x, value = t.given(np.linspace(-3, 3, K, dtype=np.float32)), t.numbers(R, K), t.numbers(R)
    t.two_hot_forward(t.out(R, K), value, bins, R, K)
    t.two_hot_loss_forward(t.out(R), t.out(R), x, value, bins, R, K)
    t.two_hot_loss_backward(t.out(R, K), t.numbers(R), t.numbers(R), x, value, bins, R, K)
    t.two_hot_mean_forward(t.out(R), t.out(R), x, bins, R, K)
    t.two_hot_mean_backward(t.out(R, K), t.numbers(R), t.numbers(R), t.numbers(R), x, bins, R, K)


def images(t: Table, s: dict[str, int]) -> None:
    B, H, W, C, I, J = (s[k] for k in "BHWCIJ")
    for mode in (0, 1):
        x = t.below(256, B, H, W, C, dtype=np.uint8)
        t.resize_bytes(t.out(B, I, J, C, dtype=np.uint8), t.scratch(B * I * (W + J) * C), x, mode, B, H, W, C, I, J)


def optimiser(t: Table, s: dict[str, int]) -> None:
    n = s["n"]
    g = t.numbers(n)
    norm = t.gradient_norm(t.scratch(2 * (n // 2**14 + 1)).view(np.float64), g, n)
    t.results.append(np.array([norm]))
    p, d, m, v, e = (t.started(a) for a in (t.numbers(n), g, t.numbers(n), t.numbers(n, positive=True), t.numbers(n)))
    follow = (c.c_float * 4)(0.25)
    a = AdamwNumbers(0.01, 1.5, 0.1, 0.99, 0.01, 1e-6, 0.9, 0.5, follow, 1)
    shadows = t.given(np.array([e.ctypes.data], np.uint64))
    cuts = [n] if n < 3 else [n // 3, n]
    t.adamw_step(p, d, m, v, shadows, a, longs(t, cuts), t.given(np.array([1, 0][: len(cuts)], np.uint8)), len(cuts), n)


SPECIAL = [
    pointwise,
    cast,
    strided,
    norm,
    group_norm,
    linear,
    int8,
    bf16,
    scan,
    conv,
    winograd,
    attention,
    head_norm,
    two_hot,
    images,
    optimiser,
]
