"""The workers that give signs of life to the controller: who they are, and which of them were heard of lately."""

from __future__ import annotations

from collections.abc import Collection

from runtime.placement import Beat, Member, worker_of


class Members:
    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self.by_name: dict[str, Member] = {}
        """all that ever beat and are not known to be dead: one that has fallen silent stays, for it may come back"""

    def __len__(self) -> int:
        return len(self.by_name)

    def of_owner(self, owner: str) -> Member | None:
        """None if that incarnation is not known, another one of its worker perhaps."""
        member = self.by_name.get(worker_of(owner))
        return member if member is not None and member.beat.owner == owner else None

    def hear(self, beat: Beat, now_s: float, joined_s: float) -> None:
        self.by_name[beat.name] = Member(beat, joined_s, now_s)

    def forget(self, name: str) -> None:
        del self.by_name[name]

    def heard_lately(self, now_s: float) -> list[Member]:
        """Within the lease."""
        return [member for member in self.by_name.values() if now_s - member.heard_s < self._lease_s]

    def among(self, owners: Collection[str]) -> list[Member]:
        return [member for member in self.by_name.values() if member.beat.owner in owners]
