"""Positions of rows with images are those of a loop over their tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import UsageError
from dovetail.inputs.mrope import Grid, mrope_positions

IMAGE = 9
GRID = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def looped(row: list[int], grids: list[Grid], merge: int) -> np.ndarray:
    """Token by token, as the definition reads."""
    pieces: list[np.ndarray] = []
    left = iter(grids)
    i = following = 0
    while i < len(row):
        piece = np.zeros((3, 1), np.int64)
        if row[i] == IMAGE:
            frames, rows, columns = next(left)
            piece = np.indices((frames, rows // merge, columns // merge)).reshape(3, -1)
        pieces.append(piece + following)
        following = int(pieces[-1].max()) + 1
        i += piece.shape[1]
    return np.concatenate(pieces, axis=1)


@given(pieces=st.lists(st.one_of(st.integers(0, 8), GRID), min_size=1, max_size=12), merge=st.integers(1, 3))
def test_a_loop_over_tokens_gives_the_same(pieces: list[int | Grid], merge: int) -> None:
    row: list[int] = []
    grids: list[Grid] = []
    for piece in pieces:
        if isinstance(piece, int):
            row.append(piece)
        else:
            frames, rows, columns = piece
            grids.append((frames, rows * merge, columns * merge))
            row += [IMAGE] * (frames * rows * columns)
    found = mrope_positions(row, grids, IMAGE, merge)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, looped(row, grids, merge))


def test_placeholders_that_do_not_stand_together_are_refused() -> None:
    with pytest.raises(UsageError, match="the placeholders of an image do not stand together"):
        mrope_positions([1, IMAGE, IMAGE, 2, IMAGE, IMAGE], [(1, 4, 4)], IMAGE, 2)
    two = mrope_positions([IMAGE] * 5, [(1, 2, 4), (1, 2, 6)], IMAGE, 2)
    assert two.tolist() == [[0, 0, 2, 2, 2], [0, 0, 2, 2, 2], [0, 1, 2, 3, 4]]
