from __future__ import annotations

import numpy as np
import pytest

from connectors.base import Sample
from connectors.encoders.image_sketch import CELLS, NUMBERS, ImageSketchWork, image_sketch
from connectors.errors import BadSample
from connectors.media import Picture
from tests.connectors.encoders.faces import portrait

COLOURS = CELLS * CELLS * 3


def stripes(*, down: bool, size: int = 128) -> Picture:
    line = np.where(np.arange(size) // 8 % 2, 255, 0).astype(np.uint8)
    grid = np.broadcast_to(line[None, :] if down else line[:, None], (size, size))
    return np.repeat(grid[:, :, None], 3, axis=2)


@pytest.mark.parametrize("size", [(1, 1), (10, 7), (64, 64), (480, 640), (481, 63)])
def test_every_size_gives_as_many_finite_numbers(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    sketch = image_sketch(picture)
    assert sketch.shape == (NUMBERS,) == (176,)
    assert sketch.dtype == np.float32
    assert np.isfinite(sketch).all()


def test_the_first_numbers_are_the_colours_of_the_cells() -> None:
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[:40, :, 0] = 255
    colours = image_sketch(picture)[:COLOURS].reshape(CELLS, CELLS, 3)
    np.testing.assert_allclose(colours[:2, :, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(colours[2:], 0.0, atol=1e-6)


def test_edges_tell_their_direction() -> None:
    across, down = (image_sketch(stripes(down=turn))[COLOURS:].reshape(-1, 8) for turn in (False, True))
    assert across.sum(axis=0).argmax() == 4  # the grey changes from top to bottom
    assert down.sum(axis=0).argmax() == 0
    assert np.linalg.norm(across) == pytest.approx(1.0, abs=0.05)


def test_the_same_scene_in_another_size_is_near_and_another_scene_is_not() -> None:
    face = portrait()
    smaller = face[::2, ::2]
    same = np.linalg.norm(image_sketch(face) - image_sketch(smaller))
    other = np.linalg.norm(image_sketch(face) - image_sketch(face[::-1]))
    assert same < other / 4


def test_a_wall_has_no_edges() -> None:
    assert np.abs(image_sketch(np.full((50, 50, 3), 90, np.uint8))[COLOURS:]).max() == 0


def test_pictures_are_frames_at_their_times_and_what_is_none_is_refused() -> None:
    samples = [Sample("p", stripes(down=True), float(second)) for second in range(3)]
    (frames,) = ImageSketchWork().encode(samples)
    assert frames.values.shape == (3, 176)
    assert frames.times_s.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(BadSample, match="no picture"):
        ImageSketchWork().encode([Sample("p", np.zeros((5, 5), np.uint8), 0.0)])
