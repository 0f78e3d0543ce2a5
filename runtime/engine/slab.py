"""The slab: one row per context, allocated once. A session holds row numbers.

A row is a context on the device and, on the host, what is known of it: the heads' outputs, the share of each
modality and the mean gate of the step that made it.

    free --allocate--> used --free--> free
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from grf_core.step import Float32Array, ModelSignature

IntArray = npt.NDArray[np.int64]


class SlabFull(Exception):
    """No row is free; the number of rows is the engine's capacity setting."""


class SlabMisuse(Exception):
    """A row was freed twice, or is none of this slab."""


class Slab:
    def __init__(self, signature: ModelSignature, capacity: int, device: torch.device) -> None:
        if capacity < 2:
            raise ValueError(f"a slab needs at least 2 rows: {capacity}")
        self.capacity = capacity
        self.contexts = torch.zeros((capacity, *signature.context_shape), dtype=torch.float32, device=device)
        """[capacity, K, D]"""
        self._in_memory = self.contexts.numpy() if device.type == "cpu" else None
        """the same memory, for NumPy: it keeps the interpreter's lock for small copies, where each operation of torch
        lets go of it and may have to wait for another thread"""
        outputs, modalities = signature.output_width, len(signature.modalities)
        self.host = np.zeros((capacity, outputs + modalities + 1), dtype="<f4")
        """all that the host knows of a row side by side, so that one copy takes it: outputs, shares, gate"""
        self.outputs = self.host[:, :outputs]
        self.shares = self.host[:, outputs : outputs + modalities]
        self.gate = self.host[:, -1]
        self._free = list(range(capacity - 1, -1, -1))
        self._used = bytearray(capacity)

    @property
    def available(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        if not self._free:
            raise SlabFull(f"all {self.capacity} rows are in use")
        slot = self._free.pop()
        self._used[slot] = 1
        return slot

    def free(self, slot: int) -> None:
        if not 0 <= slot < self.capacity or not self._used[slot]:
            raise SlabMisuse(f"row {slot} is not in use")
        self._used[slot] = 0
        self._free.append(slot)

    def gather(self, slots: IntArray) -> torch.Tensor:
        """[len(slots), K, D] on the device, a copy."""
        if self._in_memory is not None:
            return torch.from_numpy(self._in_memory[slots])
        return self.contexts.index_select(0, torch.from_numpy(slots).to(self.contexts.device))

    def scatter(
        self,
        slots: Sequence[int],
        contexts: torch.Tensor,
        outputs: Float32Array,
        shares: Float32Array,
        gate: Float32Array,
    ) -> None:
        """Fill these rows: contexts [len(slots), K, D] on the device; outputs, shares [len(slots), ...] and gate
        [len(slots)] on the host."""
        places = np.array(slots, dtype=np.int64)
        if self._in_memory is not None:
            self._in_memory[places] = contexts.numpy()
        else:
            self.contexts.index_copy_(0, torch.from_numpy(places).to(self.contexts.device), contexts)
        self.host[places] = np.concatenate((outputs, shares, gate[:, None]), axis=1)

    def context_rows(self, slots: list[int]) -> Float32Array:
        """[len(slots), K, D] on the host: one gather and one copy for all."""
        rows: Float32Array
        if self._in_memory is not None:
            rows = self._in_memory[slots]
        else:
            rows = self.gather(np.array(slots, dtype=np.int64)).cpu().numpy()
        return rows

    def write(
        self,
        slot: int,
        context_KD: Float32Array,
        outputs: Float32Array,
        shares: Float32Array,
        gate: float,
    ) -> None:
        """Fill a row from a stored record."""
        self.contexts[slot] = torch.from_numpy(np.array(context_KD, dtype=np.float32))
        self.outputs[slot] = outputs
        self.shares[slot] = shares
        self.gate[slot] = gate

    def check_integrity(self) -> None:
        """Raise SlabMisuse unless every row is either free once or in use."""
        if len(set(self._free)) != len(self._free) or len(self._free) + sum(self._used) != self.capacity:
            raise SlabMisuse(f"{len(self._free)} free and {sum(self._used)} used of {self.capacity}")
