"""How numbers are spread, dimension by dimension, gathered piece by piece in bounded memory.

    spread = Spread()
    for episode in range(10): spread.add(rows)              [n, width]
    spread.mean, spread.std, spread.quantile(0.99)

Mean, deviation, least and greatest are exact; quantiles are those of at most 100,000 rows drawn evenly with
a fixed seed, so exact for fewer. Rows with NaN or infinity are counted and left out.
"""

import numpy as np
from jaxtyping import Float64

from dovetail.inputs.statistics import Numbers

MOST_ROWS = 100_000


class Spread:
    """The statistics of rows of one width."""

    def __init__(self, *, most: int = MOST_ROWS) -> None:
        self.count = 0
        self.num_broken = 0
        self._most = most
        self._mean = self._square = self._least = self._greatest = np.zeros(0)
        self._kept: np.ndarray = np.zeros((0, 0))
        self._keys: np.ndarray = np.zeros(0)
        self._random = np.random.default_rng(0)

    def add(self, rows: Float64[np.ndarray, "n width"]) -> None:
        """Takes rows in."""
        is_whole = np.isfinite(rows).all(axis=1)
        self.num_broken += int(len(rows) - is_whole.sum())
        rows = rows[is_whole]
        if not len(rows):
            return
        mean, count = rows.mean(axis=0), len(rows)
        square = ((rows - mean) ** 2).sum(axis=0)
        if not self.count:
            self._mean, self._square = mean, square
            self._least, self._greatest = rows.min(axis=0), rows.max(axis=0)
            self._kept = np.zeros((0, rows.shape[1]))
        else:  # Chan, Golub and LeVeque 1979
            together, apart = self.count + count, mean - self._mean
            self._square = self._square + square + apart**2 * self.count * count / together
            self._mean = self._mean + apart * count / together
            self._least = np.minimum(self._least, rows.min(axis=0))
            self._greatest = np.maximum(self._greatest, rows.max(axis=0))
        self.count += count
        self._keep(rows)

    def _keep(self, rows: Float64[np.ndarray, "n width"]) -> None:
        """Every row is given a random number; those with the least are kept."""
        keys = np.concatenate([self._keys, self._random.random(len(rows))])
        kept = np.concatenate([self._kept, rows])
        if len(keys) > self._most:
            chosen = np.sort(np.argpartition(keys, self._most)[: self._most])
            keys, kept = keys[chosen], kept[chosen]
        self._keys, self._kept = keys, kept

    @property
    def width(self) -> int:
        """How many dimensions there are; 0 before the first whole row."""
        return len(self._mean)

    @property
    def rows(self) -> Float64[np.ndarray, "n width"]:
        """The rows that are kept."""
        return self._kept

    @property
    def mean(self) -> Numbers:
        """The mean of each dimension."""
        return self._mean

    @property
    def std(self) -> Numbers:
        """The standard deviation, over all rows."""
        deviation: Numbers = np.sqrt(self._square / max(self.count, 1))
        return deviation

    def quantile(self, share: float) -> Numbers:
        """The number below which so much of each dimension lies."""
        found: Numbers = np.quantile(self._kept, share, axis=0)
        return found

    def values(self) -> dict[str, Numbers]:
        """All of it, by the names that openpi and lerobot give it."""
        quantiles = {
            f"q{round(100 * share):02}": self.quantile(share) for share in (0.01, 0.1, 0.5, 0.9, 0.99)
        }
        return {
            "mean": self.mean,
            "std": self.std,
            "min": self._least,
            "max": self._greatest,
            **quantiles,
        }
