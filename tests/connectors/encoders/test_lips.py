from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pytest

from connectors.base import Sample
from connectors.encoders.base import Frames
from connectors.encoders.face_mesh import POINTS, points_of
from connectors.encoders.lips import EYE_CORNERS, LIPS, NOSE_TIP, NUMBERS, LipsOptions, LipsWork, LipsWorkshop, lips_of
from connectors.errors import BadSample
from connectors.media import Picture, Undecodable
from tests.connectors.encoders.faces import HEIGHT, WIDTH, portrait, shifted

WALL: Picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def video(*pictures: object, rate_hz: float = 25.0) -> list[Sample]:
    return [Sample("pictures", picture, number / rate_hz) for number, picture in enumerate(pictures)]


def joined(frames: Sequence[Frames]) -> Frames:
    return Frames(np.concatenate([f.values for f in frames]), np.concatenate([f.times_s for f in frames]))


# ---- the numbers, without a model ----


def a_face() -> np.ndarray:
    """[468, 3] points in a plane, the eyes 0.2 apart."""
    points = np.zeros((POINTS, 3), np.float32)
    points[:, 0] = np.linspace(0.3, 0.7, POINTS)
    points[NOSE_TIP], points[EYE_CORNERS[0]], points[EYE_CORNERS[1]] = (0.5, 0.5, -0.1), (0.4, 0.4, 0), (0.6, 0.4, 0)
    return points


def test_lips_are_told_from_the_nose_in_distances_of_the_eyes() -> None:
    points = a_face()
    points[LIPS[0]] = (0.5, 0.7, -0.1)
    lips = lips_of(points, width=100, height=100)
    assert lips is not None
    assert lips.shape == (NUMBERS,) == (129,)
    np.testing.assert_allclose(lips[:3], [0, 1.0, 0], atol=1e-6)
    np.testing.assert_allclose(lips[120:], [0.5, 0.5, -0.1, 0.4, 0.4, 0, 0.6, 0.4, 0], atol=1e-6)


def test_a_pixel_counts_the_same_across_and_down() -> None:
    points = a_face()
    points[LIPS[0]] = (0.5, 0.7, -0.1)
    wide = lips_of(points, width=200, height=100)
    assert wide is not None
    np.testing.assert_allclose(wide[:3], [0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(wide[120:123], [0.5, 0.25, -0.1], atol=1e-6)


def test_a_face_that_cannot_be_measured_is_none() -> None:
    flat, broken = a_face(), a_face()
    flat[EYE_CORNERS[0]] = flat[EYE_CORNERS[1]]
    broken[LIPS[3]] = np.nan
    assert lips_of(flat, width=100, height=100) is None
    assert lips_of(broken, width=100, height=100) is None


@pytest.mark.parametrize(
    "message", [b"\x0b", b"\x0a", b"\x0a\x05\x0d\x00", b"\x0a\x04\x0d\x00\x00\x00", b"\x0a\x05\x0a" + bytes(4)]
)
def test_bytes_that_are_no_landmarks_are_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte|landmark|float"):
        points_of(message)


def test_landmarks_are_read_from_their_message_and_zeros_may_be_left_out() -> None:
    message = b"\x0a\x0f\x0d" + np.float32(0.5).tobytes() + b"\x15" + np.float32(0.25).tobytes() + b"\x1d"
    message += np.float32(-1).tobytes() + b"\x0a\x05\x15" + np.float32(2).tobytes()
    np.testing.assert_array_equal(points_of(message), [[0.5, 0.25, -1], [0, 2, 0]])


# ---- with MediaPipe, here in this process ----


@pytest.fixture(scope="module")
def workshop() -> LipsWorkshop:
    return LipsWorkshop(25.0, True)


@pytest.fixture
def work(workshop: LipsWorkshop) -> LipsWork:
    return workshop.work("s")


def test_a_portrait_gives_the_lips_it_gave_when_they_were_compared(work: LipsWork) -> None:
    """Written down once, when the lips of ten clips equalled the stored ones; other processors round differently."""
    frames = joined(work.encode(video(portrait())))
    assert frames.values.shape == (1, 387)
    nose_and_eyes = [0.5235, 0.4800, -0.0885, 0.3939, 0.3795, 0.0234, 0.6379, 0.3660, 0.0244]
    np.testing.assert_allclose(frames.values[0, 120:129], nose_and_eyes, atol=0.01)
    np.testing.assert_allclose(frames.values[0, :6], [0.0027, 0.1965, 0.1879, 0.0042, 0.2505, 0.2546], atol=0.03)
    assert (frames.values[0, 129:] == 0).all()


def test_a_face_that_moves_has_lips_that_stay_and_a_nose_that_goes(work: LipsWork) -> None:
    face = portrait()
    frames = joined(work.encode(video(face, face, face, *(shifted(face, 4 * step) for step in (1, 2, 3)))))
    lips, nose = frames.values[:, :120], frames.values[:, 120]
    assert np.abs(lips - lips[2]).max() < 0.08
    assert nose[5] - nose[2] == pytest.approx(12 / WIDTH, abs=0.008)


def test_pictures_without_a_face_give_no_frames_and_the_others_keep_their_times(work: LipsWork) -> None:
    face = portrait()
    frames = joined(work.encode(video(WALL, face, face, WALL, WALL, face, face)))
    np.testing.assert_allclose(frames.times_s, [1 / 25, 2 / 25, 5 / 25, 6 / 25])
    moved = np.abs(frames.values[:, 129:258]).sum(axis=1)
    assert moved[0] == moved[2] == 0  # nothing is known of what moved in a gap
    assert moved[1] > 0
    assert moved[3] > 0


def test_nobody_in_the_whole_video_gives_nothing_at_all(work: LipsWork) -> None:
    assert work.encode(video(WALL, WALL, WALL)) == []
    assert work.end() == []


def test_how_pictures_are_grouped_changes_nothing(workshop: LipsWorkshop) -> None:
    samples = video(*(shifted(portrait(), step) for step in range(6)))
    together = joined(workshop.work("a").encode(samples))
    alone = workshop.work("b")
    one_by_one = joined([frames for sample in samples for frames in alone.encode([sample])])
    np.testing.assert_array_equal(together.values, one_by_one.values)


def test_a_restored_encoder_knows_what_moved_and_finds_its_face_again(workshop: LipsWorkshop) -> None:
    samples = video(*(shifted(portrait(), 2 * step) for step in range(8)))
    whole = joined(workshop.work("a").encode(samples))
    first, second = workshop.work("b"), workshop.work("c")
    first.encode(samples[:4])
    second.restore(json.loads(json.dumps(first.snapshot())))
    rest = joined(second.encode(samples[4:]))
    assert np.abs(rest.values[:, :129] - whole.values[4:, :129]).max() < 0.05
    np.testing.assert_array_equal(rest.times_s, whole.times_s[4:])
    assert np.abs(rest.values[0, 129:258]).sum() > 0


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        "x",
        Undecodable("?"),
    ],
)
def test_what_is_no_picture_is_refused_and_the_next_is_encoded(work: LipsWork, value: object) -> None:
    good = portrait()
    with pytest.raises(BadSample):
        work.encode(video(good, value))
    assert len(joined(work.encode(video(good, good))).values) == 2


# ---- in a process of its own ----


def test_streams_share_a_process_and_never_each_others_face() -> None:
    face = portrait()
    still, moving = video(*[face] * 6), video(*(shifted(face, 4 * step) for step in range(6)))

    async def main() -> None:
        async with LipsOptions(movement_hz=25.0).build() as factory:
            encoders = [factory.encoder(stream=name) for name in ("a", "b")]
            found = await asyncio.gather(*(e.encode(samples=s) for e, s in zip(encoders, (still, moving), strict=True)))
            alone = await factory.encoder(stream="c").encode(samples=moving)
        np.testing.assert_array_equal(joined(found[1]).values, joined(alone).values)
        assert not np.array_equal(joined(found[0]).values, joined(found[1]).values)

    asyncio.run(main())
