from __future__ import annotations

import numpy as np

from grf_core.packing import pack_segments
from tests.grf_core.models import MODALITIES, random_segments


def test_every_frame_is_found_again_at_its_row_and_position() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 17):
        segments = random_segments(count, rng)
        packed = pack_segments([frames for _, frames in segments], np.array([rank for rank, _ in segments]))
        place = zip(packed.row.tolist(), packed.position.tolist(), strict=True)
        seen = 0
        for rank, frames_NF in packed.frames.items():
            for frame_F in frames_NF:
                row, position = next(place)
                assert segments[row][0] == rank
                np.testing.assert_array_equal(segments[row][1][position], frame_F)
                seen += 1
        assert seen == sum(len(frames) for _, frames in segments)


def test_ranks_are_ascending_and_only_those_that_occur() -> None:
    frames = [np.ones((2, MODALITIES[rank].width), np.float32) for rank in (2, 0, 2)]
    packed = pack_segments(frames, np.array([2, 0, 2]))
    assert list(packed.frames) == [0, 2]
    assert [tuple(part.shape) for part in packed.frames.values()] == [(2, 5), (4, 1)]


def test_valid_is_true_at_frames_and_false_at_padding() -> None:
    frames = [np.ones((length, 5), np.float32) for length in (1, 3)]
    packed = pack_segments(frames, np.array([0, 0]))
    assert packed.longest == 3
    assert packed.valid().tolist() == [[True, False, False], [True, True, True]]


def test_frames_that_are_read_only_or_strided_are_taken_as_they_are() -> None:
    whole = np.arange(20, dtype=np.float32).reshape(10, 2)
    whole.flags.writeable = False
    packed = pack_segments([whole[::2], whole[:, ::-1]], np.array([0, 0]))
    np.testing.assert_array_equal(packed.frames[0], np.concatenate([whole[::2], whole[:, ::-1]]))
