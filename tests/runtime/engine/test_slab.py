from __future__ import annotations

import numpy as np
import pytest
import torch

from runtime.engine.slab import Slab, SlabFull, SlabMisuse
from tests.runtime.toy_model import SIGNATURE


@pytest.fixture
def slab() -> Slab:
    return Slab(SIGNATURE, 4, torch.device("cpu"))


def test_every_row_is_handed_out_once_until_it_is_freed(slab: Slab) -> None:
    rows = [slab.allocate() for _ in range(4)]
    assert sorted(rows) == [0, 1, 2, 3]
    slab.free(rows[2])
    assert slab.allocate() == rows[2]
    slab.check_integrity()


def test_a_full_slab_says_how_many_rows_it_has(slab: Slab) -> None:
    for _ in range(4):
        slab.allocate()
    with pytest.raises(SlabFull, match="all 4 rows"):
        slab.allocate()
    assert slab.available == 0
    slab.check_integrity()


@pytest.mark.parametrize("row", [-1, 0, 4, 99])
def test_freeing_what_is_not_in_use_is_refused_and_changes_nothing(slab: Slab, row: int) -> None:
    with pytest.raises(SlabMisuse, match=f"row {row} "):
        slab.free(row)
    assert slab.available == 4
    slab.check_integrity()


def test_freeing_twice_is_refused(slab: Slab) -> None:
    row = slab.allocate()
    slab.free(row)
    with pytest.raises(SlabMisuse):
        slab.free(row)


def test_integrity_notices_a_row_that_is_free_twice_or_lost(slab: Slab) -> None:
    slab._free.append(0)
    with pytest.raises(SlabMisuse):
        slab.check_integrity()
    slab._free[:] = [0, 1, 2]
    with pytest.raises(SlabMisuse):
        slab.check_integrity()


def test_what_is_written_is_read_back(slab: Slab) -> None:
    row, other = slab.allocate(), slab.allocate()
    context = np.arange(4, dtype=np.float32).reshape(1, 4)
    slab.write(row, context, np.ones(3, np.float32), np.array([0.5, 0.25, 0.25], np.float32), 0.75)
    assert slab.context_rows([other, row]).tolist() == [[[0, 0, 0, 0]], [[0, 1, 2, 3]]]
    assert (slab.outputs[row].tolist(), slab.gate[row]) == ([1, 1, 1], 0.75)
    context[:] = 9
    assert slab.context_rows([row]).tolist() == [[[0, 1, 2, 3]]], "a copy"


def test_a_slab_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows: 1"):
        Slab(SIGNATURE, 1, torch.device("cpu"))
