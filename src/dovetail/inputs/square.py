"""The square images that a tower with learned positions sees."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """The sizes of a tower that say how large its images are. `image_size` 0 stands for as many pixels as
    the patches cover; `positions` may count a class token and registers."""

    patch: int
    positions: int
    image_size: int

    @property
    def pixels(self) -> int:
        """The edge in pixels that images are resized to."""
        return self.image_size or math.isqrt(self.positions) * self.patch

    @property
    def edge(self) -> int:
        """The patches along an edge."""
        return self.pixels // self.patch

    @property
    def num_patches(self) -> int:
        """The patches of an image."""
        return self.edge**2
