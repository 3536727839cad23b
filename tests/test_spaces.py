"""spaces: round trips of actions through codes, rows and JSON; masks; features; messages."""

import json
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_spaces import SHAPES, exactly_equal, random_space, same
from worldmodel.spaces import Codes, SlotTable, symexp, symlog


def check_round_trips(space, rng):
    table = SlotTable.of(space)
    actions = [table.sample(rng) for _ in range(3)]
    assert all(space.contains(a) and table.contains(a) for a in actions), (space, actions)
    codes = table.encode_batch(actions)
    assert codes.raw.shape == (3, table.size)
    rows = table.pack_batch(actions)
    assert rows.shape == (3, table.row.itemsize) and rows.dtype == np.uint8
    for i, action in enumerate(actions):
        assert same(table.decode(codes[i]), action)
        assert same(table.unpack(rows[i]), action)
    one = table.encode(actions[0])
    assert same(table.decode(one), actions[0]) and same(table.pack(actions[0]), rows[0])
    batch = table.decode_batch(codes)
    assert same(table.unpack_batch(rows), batch)
    if table.size:
        assert same(table.decode_batch(table.encode_batch(batch)), batch)
        assert table.decode(table.encode(None)) is None
    features = table.features(codes)
    assert features.shape == (3, table.feature_size) and features.dtype == np.float32
    assert np.isfinite(features).all() and np.array_equal(table.features(one), features[0])
    assert np.array_equal(table.features_batch(actions), features)
    back = SlotTable.from_json(json.loads(json.dumps(table.to_json(), allow_nan=False)))
    assert exactly_equal(back.space, space) and back == table and back.slots == table.slots


def test_round_trips_of_10000_random_spaces():
    began = time.process_time()
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        space = random_space(rng)
        try:
            check_round_trips(space, rng)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {space}") from error
    assert time.process_time() - began < 60  # some 15 s


leaf_spaces = st.one_of(
    st.builds(
        lambda a, b, d, s: spaces.Box(min(a, b), max(a, b), s, d),
        st.floats(width=16, allow_nan=False),
        st.floats(width=16, allow_nan=False),
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.sampled_from(SHAPES),
    ),
    st.builds(
        lambda a, b, s: spaces.Box(np.full(s, min(a, b)), np.full(s, max(a, b)), s, np.int64),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.sampled_from(SHAPES),
    ),
    st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 2**40), st.integers(-(2**62), 2**62)),
    st.builds(lambda n: spaces.MultiDiscrete(n), st.lists(st.integers(1, 6), min_size=1, max_size=3)),
    st.builds(lambda n: spaces.MultiBinary(n), st.integers(1, 4)),
)
any_space = st.recursive(
    leaf_spaces,
    lambda inner: st.one_of(
        st.builds(
            spaces.Dict,
            st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3),
        ),
        st.builds(spaces.Tuple, st.lists(inner, max_size=3)),
        st.builds(spaces.OneOf, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@example(spaces.Box(np.inf, np.inf, (1,)), 0)
@example(spaces.Tuple([]), 0)
@given(any_space, st.integers(0, 2**32 - 1))
def test_round_trips_of_hypothesis_spaces(space, seed):
    check_round_trips(space, np.random.default_rng(seed))


# ---- the table ---------------------------------------------------------------------------------------------


def test_slots_come_depth_first_with_sorted_keys():
    space = spaces.Dict([("b", spaces.Discrete(3, start=-1)), ("a", spaces.Tuple([spaces.MultiBinary(2)]))])
    table = SlotTable.of(space)
    assert [s.path for s in table.slots] == ["action['a'][0][0]", "action['a'][0][1]", "action['b']"]
    assert [s.kind for s in table.slots] == ["binary", "binary", "categorical"]
    assert (table.slots[2].n, table.slots[2].start, table.slots[2].first, table.slots[2].width) == (
        3,
        -1,
        2,
        3,
    )
    assert table.feature_size == 5
    assert list(table.sample(np.random.default_rng(0))) == ["b", "a"]  # decoded in the space's own order


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Text(5),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
    ],
)
def test_spaces_without_a_size_are_refused_with_place_and_way_out(space):
    with pytest.raises(ValueError, match=r"action\['say'\]\[1\].*no fixed size.*Wrap.*Box, Discrete"):
        SlotTable.of(spaces.Dict(say=spaces.Tuple([spaces.Discrete(2), space])))


def test_unknown_space_classes_are_refused():
    class Odd(gymnasium.Space):
        pass

    with pytest.raises(ValueError, match="Odd is not a space"):
        SlotTable.of(Odd())
    with pytest.raises(TypeError, match=r"wanted a gymnasium\.Space, got int"):
        SlotTable.of(3)
    with pytest.raises(ValueError, match="dtype"):
        SlotTable.of(spaces.Box(0, 1, (1,), np.longdouble))


# ---- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1, -(2**53) - 1, 0, 2**62 + 3])
def test_int64_beyond_2_53_is_exact(value):
    table = SlotTable.of(spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64))
    action = np.array([value], np.int64)
    assert same(table.decode(table.encode(action)), action) and same(table.unpack(table.pack(action)), action)


@pytest.mark.parametrize("value", [2**64 - 1, 2**64 - 1024, 2**63, 2**63 - 1, 2**53 + 1, 0])
def test_uint64_is_exact(value):
    table = SlotTable.of(spaces.Box(0, 2**64 - 1, (1,), np.uint64))
    action = np.array([value], np.uint64)
    assert same(table.decode(table.encode(action)), action) and same(table.unpack(table.pack(action)), action)
    assert same(table.decode(table.encode([value])), action)  # a list of Python integers too


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4"), np.dtype(">i8")])
def test_edges_of_every_dtype(dtype):
    dtype = np.dtype(dtype)
    table = SlotTable.of(spaces.Box(-np.inf, np.inf, (4,), dtype))
    if dtype.kind == "f":
        info = np.finfo(dtype)
        action = np.array([info.max, info.smallest_subnormal, -0.0, -np.inf], dtype)
    else:
        action = np.array([-(2**63), 2**63 - 1, -1, 2**53 + 1], dtype)
    assert same(table.decode(table.encode(action)), action) and same(table.unpack(table.pack(action)), action)
    assert np.isfinite(table.features(table.encode(action))).all()


def test_a_packed_row_lies_in_a_memory_mapped_file(tmp_path):
    space = spaces.Dict(move=spaces.Discrete(5), look=spaces.Box(-1, 1, (2,)))
    table, rng = SlotTable.of(space), np.random.default_rng(0)
    batch = table.sample_batch(rng, 7)
    file = np.memmap(tmp_path / "actions", np.uint8, "w+", shape=(7, table.row.itemsize))
    file[:] = table.pack_batch(batch)
    file.flush()
    again = np.memmap(tmp_path / "actions", np.uint8, "r").reshape(7, -1)
    assert same(table.unpack_batch(again), batch)
    assert np.array_equal(again.view(table.row)["action['move']"][:, 0], batch["move"])
    got = table.unpack_batch(again)
    got["look"][:] = 0  # a copy: the file is not touched
    assert same(table.unpack_batch(again), batch)
    with pytest.raises(ValueError, match="16 bytes"):
        table.unpack(again[0][:-1])


def test_batches_agree_with_gymnasium():
    space = spaces.Dict(a=spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2,))]), b=spaces.MultiBinary(2))
    batch = gymnasium.vector.utils.batch_space(space, 5).sample()
    table = SlotTable.of(space)
    singles = list(gymnasium.vector.utils.iterate(gymnasium.vector.utils.batch_space(space, 5), batch))
    assert same(table.decode_batch(table.encode_batch(batch)), {"a": batch["a"], "b": batch["b"]})
    assert np.array_equal(table.features_batch(batch), table.features_batch(singles))


def test_sampling_is_reproducible_covers_the_space_and_leaves_its_generator_alone():
    space = spaces.Dict(n=spaces.Discrete(3, start=5), x=spaces.Box(np.array([-1, 0]), np.array([1, np.inf])))
    table = SlotTable.of(space)
    draw = table.sample_batch(np.random.default_rng(3), 2000)
    assert same(draw, table.sample_batch(np.random.default_rng(3), 2000))
    assert set(draw["n"]) == {5, 6, 7}
    assert draw["x"][:, 0].min() < -0.95 and draw["x"][:, 0].max() > 0.95 and draw["x"][:, 1].min() >= 0
    wide = SlotTable.of(spaces.Box(-1.7e308, 1.7e308, (3,), np.float64))
    assert np.isfinite(wide.sample(np.random.default_rng(0))).all()


# ---- masks -------------------------------------------------------------------------------------------------


def test_what_is_masked_changes_nothing_even_a_nan():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3), c=spaces.MultiBinary(2))
    table = SlotTable.of(space, bins=5)
    codes = table.encode_batch(table.sample_batch(np.random.default_rng(0), 4))
    clean = table.features(codes)
    for mask in ("present", "known", "valid"):
        flags, raw = codes.mask.copy(), codes.raw.copy()
        flags[1:3] = False
        raw[1:3] = np.nan
        hidden = Codes(**{**vars(codes), mask: flags, "raw": raw})
        features = table.features(hidden)
        assert not features[1:3].any() and np.array_equal(features[[0, 3]], clean[[0, 3]])


def test_an_unknown_action_is_zeros_and_partly_unknown_ones_keep_the_rest():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3))
    table = SlotTable.of(space)
    assert not table.features(table.null(3)).any() and not table.null(3).known.any()
    action = {"a": None, "b": np.int64(2)}
    codes = table.encode(action)
    assert same(table.decode(codes), action)
    assert np.array_equal(table.features(codes), [0, 0, 0, 0, 1])
    assert codes.present.all() and codes.valid.all() and list(codes.known) == [False, False, True]
    whole = {"a": np.zeros(2, np.float32), "b": np.int64(1)}
    mixed = table.encode_batch([None, whole, action])
    assert table.decode(mixed[0]) is None and same(table.decode(mixed[2]), action)
    assert np.array_equal(table.features_batch([whole] * 3, np.array([0, 1, 0]))[:, 3], [0, 1, 0])
    assert not table.features(mixed.forget()).any() and mixed.known.any()
    assert np.array_equal(mixed.forget([1]).known.any(axis=1), [False, False, True])
    with pytest.raises(ValueError, match=r"action\['a'\]\[0\], row 0: unknown"):
        table.decode_batch(mixed)
    with pytest.raises(ValueError, match=r"action\['a'\]\[0\]: wanted a value, got None"):
        table.validate(action)
    with pytest.raises(ValueError, match="None cannot be packed"):
        table.pack(action)


def test_an_invalid_value_is_refused_or_kept_and_masked():
    table = SlotTable.of(spaces.Box(-1, 1, (3,)))
    action = np.array([0.5, np.nan, 2.0], np.float32)
    with pytest.raises(ValueError, match=r"action\[1\]: wanted -1\.0 \.\. 1\.0, got nan"):
        table.encode(action)
    codes = table.encode(action, strict=False)
    assert list(codes.valid) == [True, False, False] and codes.known.all()
    assert list(table.features(codes)) == [0.5, 0, 0]
    assert same(table.decode(codes), action)
    one = SlotTable.of(spaces.Discrete(3))
    assert same(one.decode(one.encode(7, strict=False)), np.int64(7))
    assert not one.features(one.encode(7, strict=False)).any()


def test_one_of_fills_one_branch():
    space = spaces.OneOf([spaces.Discrete(3), spaces.OneOf([spaces.Box(0, 1, (2,)), spaces.MultiBinary(1)])])
    table = SlotTable.of(space)
    inner = (np.int64(1), (np.int64(0), np.array([0, 1], np.float32)))
    codes = table.encode_batch([(np.int64(0), np.int64(2)), inner, None])
    assert codes.present.astype(int).tolist() == [[1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]
    assert table.features(codes)[1].tolist() == [0, 1, 0, 0, 0, 1, 0, -1, 1, 0]
    assert same(table.decode(codes[1]), inner)


# ---- features ----------------------------------------------------------------------------------------------


def test_features_of_every_kind_of_slot():
    space = spaces.Tuple(
        [
            spaces.Box(np.array([0, 10, 3]), np.array([4, 30, 3]), dtype=np.float32),
            spaces.Box(np.array([-np.inf, 5, -np.inf]), np.array([np.inf, np.inf, 7]), dtype=np.float32),
            spaces.Box(0, 255, (), np.uint8),
            spaces.Discrete(2),
            spaces.Discrete(5000),
            spaces.Box(0, 1, (1,), bool),
        ]
    )
    table = SlotTable.of(space)
    action = ([1, 30, 3], [-3, 6, 5], 255, 1, 0, [True])
    want = [-0.5, 1, 0, -np.log(4), np.log(2), -np.log(3), 1, 0, 1, -1, 1]
    assert np.allclose(table.features(table.encode(action)), want)
    assert [s.bounded for s in table.slots] == [True] * 3 + [False] * 3 + [True, False, True, False]
    raw = table.encode(action).raw
    assert np.allclose(table.unscale(table.scale(raw))[:7], raw[:7])


def test_a_bound_at_the_edge_of_a_dtype_is_no_bound():
    for space in (
        spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,)),
        spaces.Box(-(2**31), 2**31 - 1, (1,), np.int32),
    ):
        table = SlotTable.of(space)
        assert not table.bounded[0] and np.isclose(table.features(table.encode([7]))[0], np.log(8))


def test_bins_are_linear_between_neighbours():
    table = SlotTable.of(spaces.Box(0, 4, (1,)), bins=5)
    features = table.features(table.encode_batch([[0.0], [1.25], [4.0]]))
    assert np.allclose(features[:, 1:], [[1, 0, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0, 0, 0, 1]])
    open_ = SlotTable.of(spaces.Box(-np.inf, np.inf, (1,)), bins=3)
    assert np.allclose(open_.features(open_.encode([0.0])), [0, 0, 1, 0])
    assert np.allclose(open_.features(open_.encode([np.inf]))[1:], [0, 0, 1])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(6, start=-2),
        spaces.Discrete(3, start=2**60 + 1),
        spaces.MultiDiscrete([3, 1, 4], start=[1, 2, -3]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(-2, 1, (3, 2)),
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.Box(np.array([0, -np.inf]), np.array([1, np.inf])),
    ],
)
def test_short_cuts_agree_with_the_long_way(space):
    table, rng = SlotTable.of(space), np.random.default_rng(0)
    batch = table.sample_batch(rng, 33)
    known = rng.random(33) < 0.7
    long = table.features(table.encode_batch(batch, known))
    assert np.array_equal(table.features_batch(batch, known), long)
    assert np.array_equal(table.features_batch(list(batch), known), long)
    bad = batch.copy()
    bad[4] = 99 if space.dtype.kind == "i" else 0
    if space.dtype == np.float32:
        bad[4] = np.nan
        assert np.array_equal(table.features_batch(bad, np.arange(33) != 4)[4], np.zeros(table.feature_size))
    if space.dtype != np.uint8:
        with pytest.raises(ValueError, match="row 4: wanted"):
            table.features_batch(bad)


def test_features_of_a_batch_are_fast():
    table, wide = SlotTable.of(spaces.Discrete(18)), SlotTable.of(spaces.Box(-1, 1, (8,)))
    actions, numbers = np.arange(256) % 18, np.zeros((256, 8), np.float32)
    best = np.inf
    for _ in range(50):
        began = time.perf_counter()
        table.features_batch(actions)
        wide.features_batch(numbers)
        best = min(best, time.perf_counter() - began)
    assert best < 1e-3  # some 60 us; a Python loop over 512 actions takes ten times this bound


def test_symlog_and_symexp_are_inverse():
    x = np.array([-1e6, -1.0, 0.0, 1e-9, 3.0])
    assert np.allclose(symexp(symlog(x)), x, rtol=1e-12)


# ---- from a policy -----------------------------------------------------------------------------------------


def test_compose_makes_legal_actions_only():
    rng = np.random.default_rng(0)
    for seed in range(300):
        space = random_space(np.random.default_rng(seed))
        table = SlotTable.of(space)
        values, index = rng.normal(size=(4, table.size)) * 3, rng.integers(-2, 9, (4, table.size))
        codes = table.compose(values, index)
        for i in range(4):
            action = table.decode(codes[i])
            assert space.contains(action), (seed, space, action)
            again = table.encode(action)
            shown = codes.present[i]
            assert np.array_equal(again.present, shown)
            assert np.array_equal(again.index[shown], codes.index[i][shown])
            assert same(table.decode(again), action) and np.isfinite(table.features(codes)).all()


def test_compose_inverts_features():
    space = spaces.Dict(a=spaces.Box(-3, 5, (2,), np.float64), b=spaces.Discrete(4, start=2))
    table = SlotTable.of(space)
    codes = table.encode({"a": np.array([-3, 1.5]), "b": 4})
    again = table.compose(table.scale(codes.raw), codes.index)
    assert same(table.decode(again), table.decode(codes))
    with pytest.raises(ValueError, match="NaN"):
        table.compose(np.full(3, np.nan), np.zeros(3, int))


# ---- messages ----------------------------------------------------------------------------------------------

ARM = spaces.Dict(
    arm=spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(0, 1, (2,))]), go=spaces.MultiBinary(2)
)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda a: 3, TypeError, r"action: wanted a dict with keys \['arm', 'go'\], got int"),
        (lambda a: {"arm": a["arm"]}, ValueError, r"action: wanted keys \['arm', 'go'\], got \['arm'\]"),
        (lambda a: {**a, "x": 1}, ValueError, "wanted keys"),
        (lambda a: {**a, "arm": 1}, TypeError, r"action\['arm'\]: wanted a tuple of 2, got int"),
        (lambda a: {**a, "arm": (1,)}, ValueError, r"action\['arm'\]: wanted a tuple of 2, got 1"),
        (
            lambda a: {**a, "arm": (0, a["arm"][1])},
            ValueError,
            r"action\['arm'\]\[0\]: wanted 1 \.\. 3, got 0",
        ),
        (lambda a: {**a, "arm": (1.0, a["arm"][1])}, TypeError, r"\[0\]: wanted int64, got float"),
        (lambda a: {**a, "arm": ("up", a["arm"][1])}, TypeError, r"\[0\]: wanted int64"),
        (
            lambda a: {**a, "arm": (2**70, a["arm"][1])},
            ValueError,
            r"\[0\]: 1180591620717411303424 does not fit",
        ),
        (lambda a: {**a, "arm": (1, [0, 1, 1])}, ValueError, r"\[1\]: wanted shape \(2,\), got \(3,\)"),
        (lambda a: {**a, "arm": (1, [0, 1.5])}, ValueError, r"\[1\]\[1\]: wanted 0\.0 \.\. 1\.0, got 1\.5"),
        (lambda a: {**a, "arm": (1, [0, "x"])}, TypeError, r"\[1\]: wanted float32"),
        (lambda a: {**a, "arm": (1, [0, [1]])}, ValueError, r"\[1\]: wanted shape \(2,\), got a ragged list"),
        (lambda a: {**a, "go": [0, 2]}, ValueError, r"action\['go'\]\[1\]: wanted 0 \.\. 1, got 2"),
        (lambda a: {**a, "go": [0, 300]}, ValueError, r"action\['go'\]: 300 does not fit in int8"),
    ],
)
def test_messages_name_place_wanted_and_got(change, error, message):
    table = SlotTable.of(ARM)
    good = table.sample(np.random.default_rng(0))
    bad = change(good)
    with pytest.raises(error, match=message):
        table.validate(bad)
    assert table.contains(good) and not table.contains(bad)
    with pytest.raises(error):
        table.encode_batch([good, bad])


def test_messages_of_batches_name_the_row():
    table = SlotTable.of(ARM)
    good = table.sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"action\['go'\]\[1\], row 2: wanted 0 \.\. 1, got 5"):
        table.encode_batch([None, good, {**good, "go": [0, 5]}])
    with pytest.raises(ValueError, match=r"action\['go'\], row 2: 300 does not fit"):
        table.encode_batch([good, {**good, "go": None}, {**good, "go": np.array([0, 300])}])
    with pytest.raises(ValueError, match=r"action\['go'\], row 1: wanted shape \(2,\), got \(\)"):
        table.encode_batch([good, {**good, "go": 1}])
    with pytest.raises(TypeError, match=r"action, row 1: wanted a dict"):
        table.encode_batch([good, 7])
    one_of = SlotTable.of(spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (1,))]))
    with pytest.raises(TypeError, match=r"action, row 1: wanted a pair \(0 \.\. 1, value\), got 5"):
        one_of.encode_batch([(0, 1), 5])
    with pytest.raises(ValueError, match=r"action\.option\[1\]\[0\], row 2: wanted 0\.0 \.\. 1\.0, got 3\.0"):
        one_of.encode_batch([(0, 1), (1, [0.5]), (1, [3.0])])
    with pytest.raises(ValueError, match=r"action\.choice, row 0: wanted 0 \.\. 1, got 2"):
        one_of.encode_batch([(2, 1)])
    with pytest.raises(ValueError, match=r"action: wanted shape \(2,\) for 2 actions, got \(2, 1\)"):
        SlotTable.of(spaces.Discrete(2)).encode_batch(np.zeros((2, 1), int))


def test_float64_actions_for_a_float32_box_are_rounded_and_too_large_ones_refused():
    table = SlotTable.of(spaces.Box(-np.inf, np.inf, (1,)))
    assert same(table.decode(table.encode(np.array([0.1]))), np.array([0.1], np.float32))
    with pytest.raises(ValueError, match="1e\\+300 does not fit in float32"):
        table.encode(np.array([1e300]))
