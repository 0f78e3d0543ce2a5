"""Real disks that fill up and break. They need root and a kernel that mounts; without it the tests say so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def _run_or_skip(*command: str | Path) -> None:
    try:
        _run(*command)
    except (RuntimeError, FileNotFoundError) as error:
        pytest.skip(f"needs root and mount: {error}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    _run_or_skip("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    yield disk
    _run("umount", disk)


def make_read_only(disk: Path) -> None:
    """A disk that is mounted, and on which nobody has a file open."""
    _run("mount", "-o", "remount,ro", disk)


@dataclass
class BreakableDisk:
    image: Path
    path: Path

    def turn_read_only(self) -> None:
        """What the kernel does when a disk fails (errors=remount-ro): files are open, and can be written no more."""
        _run("mount", "-o", "remount,abort", self.path)

    def repair(self) -> None:
        _run("umount", self.path)
        subprocess.run(["fsck.ext4", "-y", self.image], capture_output=True, timeout=30)  # 1: errors were corrected
        _run("mount", "-o", "loop", self.image, self.path)


@pytest.fixture
def breakable_disk(tmp_path: Path) -> Iterator[BreakableDisk]:
    disk = BreakableDisk(tmp_path / "disk.img", tmp_path / "disk")
    disk.path.mkdir()
    with disk.image.open("wb") as image:
        image.truncate(8 * 2**20)
    _run_or_skip("mkfs.ext4", "-q", "-F", disk.image)
    _run_or_skip("mount", "-o", "loop", disk.image, disk.path)
    yield disk
    _run("umount", disk.path)


@pytest.fixture
def read_only_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in which nothing can be made. Root may write where permissions forbid it, hence the attribute."""
    directory = tmp_path / "read-only"
    directory.mkdir()
    directory.chmod(0o555)
    try:
        (directory / "probe").touch()
    except PermissionError:
        yield directory
        directory.chmod(0o755)
        return
    (directory / "probe").unlink()
    _run_or_skip("chattr", "+i", directory)
    yield directory
    _run("chattr", "-i", directory)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """As `read_only_directory`, for one file."""
    path.chmod(0o444)
    try:
        path.open("ab").close()
    except PermissionError:
        yield
        for file in path.parent.glob(f"{path.name}*"):  # SQLite gives the files it adds the permissions of the first
            file.chmod(0o644)
        return
    _run_or_skip("chattr", "+i", path)
    yield
    _run("chattr", "-i", path)
