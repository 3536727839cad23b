"""actions: Open-Oasis' 25 numbers of an action, as a space with names.

Buttons are 0 or 1; `camera` is (vertical, positive looks down; horizontal), each 1 for 20 degrees a step, in steps of
1/40 when recorded.  (The original's list calls these two cameraX and cameraY; the first turns up and down.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...spaces import SlotTable

NAMES = (
    "inventory",
    "ESC",
    *(f"hotbar.{i}" for i in range(1, 10)),
    "forward",
    "back",
    "left",
    "right",
    "cameraX",
    "cameraY",
    "jump",
    "sneak",
    "sprint",
    "swapHands",
    "attack",
    "use",
    "pickItem",
    "drop",
)
"""In the order of the vector."""


def action_space() -> Any:
    """A Dict of buttons (Discrete(2)) and the camera (Box of two numbers in [-1, 1])."""
    from gymnasium.spaces import Box, Dict, Discrete

    buttons = {name: Discrete(2) for name in NAMES if not name.startswith("camera")}
    return Dict({**buttons, "camera": Box(-1.0, 1.0, (2,), np.float32)})


def to_vector(table: SlotTable) -> np.ndarray:
    """The matrix (25, F) from features of such an action to the vector; unknown actions (zeros) become zeros.

    Raises ValueError for another space.
    """
    out = np.zeros((len(NAMES), table.feature_size), np.float32)
    found = 0
    for slot in table.slots:
        for row, name in enumerate(NAMES):
            where = {"cameraX": "['camera'][0]", "cameraY": "['camera'][1]"}.get(name, f"['{name}']")
            if slot.path.endswith(where):
                out[row, slot.first + (slot.width - 1 if slot.kind == "categorical" else 0)] = 1
                found += 1
    if found != len(NAMES) or table.size != found:
        raise ValueError(f"Oasis: its action space is models.oasis.action_space(), got {table.space}")
    return out
