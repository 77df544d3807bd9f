"""Views of a panorama: their number, their overlap, and where a camera looks."""

import math

import numpy as np
import pytest

from dovetail.errors import UsageError
from dovetail.inputs.images import HALF, LANCZOS, normalize, resize
from dovetail.inputs.panorama import anyres, num_views, perspective, project, sliding
from inputs.golden_images import noise


@pytest.mark.parametrize(
    ("fov", "overlap", "count"),
    [(90.0, 0.5, 8), (90.0, 0.0, 4), (60.0, 0.25, 8), (90.0, 0.25, 6), (360.0, 0.0, 1)],
)
def test_views_go_around(fov: float, overlap: float, count: int) -> None:
    assert num_views(fov, overlap) == count


@pytest.mark.parametrize(("fov", "overlap"), [(0.0, 0.5), (361.0, 0.5), (90.0, 1.0), (90.0, -0.1)])
def test_impossible_views_are_refused(fov: float, overlap: float) -> None:
    with pytest.raises(UsageError, match=f"no views of {fov} degrees overlap by {overlap}"):
        num_views(fov, overlap)


def test_neighbouring_windows_share_their_overlap_and_run_around() -> None:
    """At a size that needs no resizing, the second half of a view is the first half of the next."""
    panorama = noise(24, 80)
    views = sliding(panorama, (20, 20))
    assert views.shape == (8, 3, 20, 20)
    for one, following in zip(views, np.roll(views, -1, axis=0), strict=True):
        np.testing.assert_array_equal(one[:, :, 10:], following[:, :, :10])
    np.testing.assert_array_equal(views[0], normalize(panorama[2:22, :20], HALF))


def test_windows_are_resized_with_lanczos() -> None:
    panorama = noise(24, 80)
    found = sliding(panorama, (8, 12))[1]
    np.testing.assert_array_equal(
        found, normalize(resize(panorama[2:22, 10:30], (8, 12), filter=LANCZOS), HALF)
    )


def compass(height: int, width: int) -> np.ndarray:
    """A panorama whose colour is the direction: red to the right, green up, blue ahead (0..255 for -1..1)."""
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    level = np.cos(latitude)[:, None]
    direction = np.stack(
        [level * np.sin(longitude), np.repeat(np.sin(latitude)[:, None], width, 1), level * np.cos(longitude)]
    )
    return np.rint((direction.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("yaw", [0.0, 45.0, 135.0, 180.0, 315.0])
def test_a_camera_sees_the_directions_in_front_of_it(yaw: float) -> None:
    """An independent oracle: each pixel's ray, turned, is the colour that the panorama has there."""
    seen = project(compass(256, 512), (21, 31), fov=90.0, yaw=yaw).astype(np.float64) / 127.5 - 1
    for i in range(21):
        for j in range(31):
            ray = np.array([-1 + 2 * j / 30, 1 - 2 * i / 20, 1.0])
            ray /= np.linalg.norm(ray)
            turn = math.radians(yaw)
            right = ray[0] * math.cos(turn) + ray[2] * math.sin(turn)
            ahead = ray[2] * math.cos(turn) - ray[0] * math.sin(turn)
            np.testing.assert_allclose(seen[i, j], [right, ray[1], ahead], atol=0.012)


def test_perspective_views_follow_each_other_to_the_right() -> None:
    panorama = compass(128, 256)
    views = perspective(panorama, (24, 24))
    assert views.shape == (8, 3, 24, 24)
    to_the_right = project(panorama, (24, 24), fov=90.0, yaw=90.0)
    expected = normalize(resize(to_the_right[1:23], (24, 24), filter=LANCZOS), HALF)
    np.testing.assert_array_equal(views[2], expected)


def test_a_camera_cannot_see_half_the_sphere() -> None:
    with pytest.raises(UsageError, match=r"no camera sees 180\.0 degrees"):
        perspective(noise(8, 16), (4, 4), fov=180.0)


@pytest.mark.slow
def test_anyres_shows_the_whole_and_then_looks_around() -> None:
    panorama = noise(48, 96)
    views = anyres(panorama, (32, 32), fov=90.0, overlap=0.5)
    assert views.shape == (9, 3, 32, 32)
    assert (views[0, :, :7] == -1).all()  # 2 to 1, so a quarter of the square is black at the top
    assert (views[0, :, 9:23] > -1).any()
    for i in (0, 3):
        seen = normalize(project(panorama, (672, 672), fov=90.0, yaw=45.0 * i), HALF)
        # 21 pixels of the drawing for one: in the middle between the two in the middle
        np.testing.assert_allclose(views[1 + i], seen[:, 10::21, 10::21], atol=1e-5)
    assert len(anyres(panorama, (8, 8), fov=60.0, overlap=0.5)) == 1 + 12 * 2
    with pytest.raises(UsageError, match=r"no view of 100\.0 degrees lies within 90"):
        anyres(panorama, (8, 8), fov=100.0)


def test_a_camera_looks_up() -> None:
    """Straight up there is one pixel of the panorama's top row in the middle, whatever the yaw."""
    panorama = np.zeros((180, 360, 3), np.uint8)
    panorama[:30] = 200
    seen = project(panorama, (33, 33), fov=40.0, yaw=123.0, pitch=90.0)
    assert (seen == 200).all()
    seen = project(panorama, (33, 33), fov=40.0, yaw=123.0, pitch=60.0)
    assert (seen[:15, 16] == 200).all()
    assert (seen[18:, 16] == 0).all()
