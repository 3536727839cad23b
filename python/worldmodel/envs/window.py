"""window: frames on the screen and keys from it, by pygame."""

from __future__ import annotations

import time

import numpy as np


class Window:
    """A window that shows frames enlarged, at most `fps` a second, and says which keys are down.  Raises
    ImportError naming the extra without pygame.
    """

    def __init__(self, title: str, scale: int = 8, fps: float | None = None):
        try:
            import pygame
        except ImportError:
            raise ImportError('a window needs pygame: pip install "worldmodel[play]"') from None
        self._pygame, self._title, self._scale, self._screen = pygame, title, scale, None
        self.closed, self._fps, self._shown = False, fps, 0.0

    def show(self, frame: np.ndarray) -> None:
        """frame (H,W,C) uint8 with C of 1 or 3."""
        pg = self._pygame
        H, W, C = frame.shape
        if self._screen is None:
            pg.display.init()
            self._screen = pg.display.set_mode((W * self._scale, H * self._scale))
            pg.display.set_caption(self._title)
        rgb = np.broadcast_to(frame, (H, W, 3))
        surface = pg.surfarray.make_surface(np.ascontiguousarray(rgb.swapaxes(0, 1)))
        self._screen.blit(pg.transform.scale(surface, self._screen.get_size()), (0, 0))
        if self._fps:
            time.sleep(max(0.0, self._shown + 1 / self._fps - time.monotonic()))
        pg.display.flip()
        self._shown = time.monotonic()
        self._pump()

    def _pump(self) -> None:
        for event in self._pygame.event.get():
            if event.type == self._pygame.QUIT or (
                event.type == self._pygame.KEYDOWN and event.key == self._pygame.K_ESCAPE
            ):
                self.closed = True

    def down(self, key: str) -> bool:
        """Is the key of that name ('a', 'left', 'space') pressed?"""
        return bool(self._pygame.key.get_pressed()[self._pygame.key.key_code(key)])

    def close(self) -> None:
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
