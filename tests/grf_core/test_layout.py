from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from grf_core.layout import SMALLEST_RATIO, Layout, buckets

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.sampled_from([10, 100, 5000]), st.sampled_from([0, 2000]))
def test_every_row_is_in_one_bucket(lengths: list[int], most_frames: int, most_padding: int) -> None:
    rows = [row for bucket in buckets(lengths, most_frames, most_padding) for row in bucket]
    assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.sampled_from([10, 100, 5000]), st.sampled_from([0, 2000]))
def test_a_bucket_keeps_its_limits(lengths: list[int], most_frames: int, most_padding: int) -> None:
    for bucket in buckets(lengths, most_frames, most_padding):
        own = [lengths[row] for row in bucket]
        assert len(own) == 1 or sum(own) <= most_frames
        near = min(own) >= SMALLEST_RATIO * max(own)
        assert near or sum(max(own) ** 2 - length**2 for length in own) <= most_padding


def test_a_batch_that_fits_is_one_bucket_in_its_own_order() -> None:
    assert list(buckets([5, 4, 5], 100, 0)) == [range(3)]


@given(LENGTHS)
def test_packed_frames_come_back_from_side_by_side(lengths: list[int]) -> None:
    layout = Layout(lengths, CPU, torch.float32)
    x_N2 = torch.randn(sum(lengths), 2)
    x_BT2 = layout.dense(x_N2)
    assert x_BT2.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(layout.packed(x_BT2.contiguous()), x_N2)
    for row, segment in enumerate(x_N2.split(lengths)):
        assert torch.equal(x_BT2[row, : len(segment)], segment)
        assert (x_BT2[row, len(segment) :] == segment[-1]).all()
        torch.testing.assert_close(layout.mean(x_BT2)[row], segment.mean(dim=0), atol=1e-5, rtol=0)


@given(LENGTHS, st.booleans())
def test_a_rows_vector_reaches_all_its_frames_and_no_other(lengths: list[int], in_place: bool) -> None:
    layout = Layout(lengths, CPU, torch.float32)
    row_B1 = torch.arange(len(lengths), dtype=torch.float32)[:, None]
    x_N1 = torch.ones(sum(lengths), 1)
    added_N1 = layout.add_to_frames(x_N1, row_B1, in_place)
    expected = [1 + row for row, length in enumerate(lengths) for _ in range(length)]
    assert added_N1[:, 0].tolist() == expected
    assert (x_N1 == 1).all() or in_place


@given(LENGTHS)
def test_the_mask_hides_padding_and_nothing_else(lengths: list[int]) -> None:
    layout = Layout(lengths, CPU, torch.float32)
    mask = layout.mask(layout.full, torch.float32, CPU)
    if mask is None:
        assert set(lengths) == {layout.full}
        return
    for row, length in enumerate(lengths):
        own = mask[row if len(mask) > 1 else 0, 0]
        assert (own[:length] == 0).all()
        assert (own[length:] == -torch.inf).all()
