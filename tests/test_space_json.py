"""space_json: spaces through JSON text, equal to the bit; broken files are ValueErrors."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from random_spaces import exactly_equal
from worldmodel.spaces import SlotTable, space_from_json, space_to_json


def test_json_carries_observation_spaces():
    space = spaces.Dict(
        [
            ("z", spaces.Text(9, min_length=0, charset="zab")),
            ("pixels", spaces.Box(0, 255, (4, 4, 3), np.uint8)),
            ("graph", spaces.Graph(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))),
            ("bare", spaces.Graph(spaces.Discrete(2), None)),
            ("list", spaces.Sequence(spaces.Discrete(4), stack=True)),
            ("ints", spaces.Box(-np.inf, np.inf, (2,), np.int64)),
            ("half", spaces.Box(np.array([-np.inf, 0]), np.array([np.inf, 0.1]), dtype=np.float16)),
            ("zero", spaces.Box(-0.0, 0.0, (1,), np.float64)),
            ("n", spaces.Discrete(3, start=-1, dtype=np.int32)),
        ]
    )
    text = json.dumps(space_to_json(space), allow_nan=False)
    again = space_from_json(json.loads(text))
    assert again == space and exactly_equal(again["ints"], space["ints"]) and list(again) == list(space)
    assert exactly_equal(again["half"], space["half"]) and exactly_equal(again["zero"], space["zero"])
    assert again["z"].character_list == space["z"].character_list and again["list"].stack
    assert json.dumps(space_to_json(again)) == text


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"type": "Sphere"},
        {"type": ["Box"]},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": 0},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": 1, "high": 0},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0], "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": "nan", "high": 1},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": "one", "high": 1},
        {"type": "Box", "shape": [2], "dtype": "O", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "nonsense", "low": 0, "high": 1},
        {"type": "Box", "shape": [2], "dtype": "uint8", "low": 0, "high": 256},
        {"type": "Box", "shape": [2], "dtype": "uint8", "low": 0.5, "high": 1},
        {"type": "Box", "shape": [10**9, 10**9], "dtype": "uint8", "low": 0, "high": 1},
        {"type": "Box", "shape": [-1], "dtype": "uint8", "low": 0, "high": 1},
        {"type": "Box", "shape": [True], "dtype": "uint8", "low": 0, "high": 1},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": 2, "start": "0", "dtype": "int64"},
        {"type": "Discrete", "n": 2**70, "start": 0, "dtype": "int64"},
        {"type": "MultiDiscrete", "shape": [2], "nvec": [0, 1], "start": 0, "dtype": "int64"},
        {"type": "MultiBinary", "n": 10**12},
        {"type": "MultiBinary", "n": -2},
        {"type": "Dict", "spaces": {"a": 1}},
        {"type": "Dict", "spaces": [["a", {"type": "MultiBinary", "n": 1}]] * 2},
        {"type": "OneOf", "spaces": []},
        {"type": "Tuple", "spaces": [1]},
        {"type": "Text", "min_length": 2, "max_length": 1, "charset": "ab"},
    ],
)
def test_broken_json_is_a_value_error(data):
    with pytest.raises(ValueError):
        space_from_json(data)


def test_deep_nesting_in_a_file_is_refused():
    data = {"type": "MultiBinary", "n": 1}
    for _ in range(100):
        data = {"type": "Tuple", "spaces": [data]}
    with pytest.raises(ValueError, match="nested deeper"):
        space_from_json(data)


@pytest.mark.parametrize(
    "data", [None, {}, {"version": 2}, {"version": 1, "name": "a", "bins": True, "space": {}}]
)
def test_broken_table_json_is_a_value_error(data):
    with pytest.raises(ValueError):
        SlotTable.from_json(data)
