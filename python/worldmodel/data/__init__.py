"""worldmodel.data: real experience on disk: collect it, open it, convert it, look at it, draw batches
from it.
"""

from .batch import Batch, Batches, Windows
from .collect import RandomPolicy, collect
from .convert import from_arrays, from_minari, from_video, to_minari
from .environment import Environment, environment
from .episode import Episode
from .index import ArraySpec
from .lerobot import from_lerobot
from .render import contact_sheet, save_gif, save_mp4, save_png
from .replay import Replay
from .resize import resize_area
from .statistics import statistics

__all__ = [
    "ArraySpec",
    "Batch",
    "Batches",
    "Environment",
    "Episode",
    "RandomPolicy",
    "Replay",
    "Windows",
    "collect",
    "contact_sheet",
    "environment",
    "from_arrays",
    "from_lerobot",
    "from_minari",
    "from_video",
    "resize_area",
    "save_gif",
    "save_mp4",
    "save_png",
    "statistics",
    "to_minari",
]
