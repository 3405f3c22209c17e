"""Say how much disk a harvest takes, and stop before it is full."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from stages.base.errors import RepresentationError


def gigabytes(n_bytes: int) -> str:
    """Return a size in words.

    >>> gigabytes(1_234_567_890), gigabytes(2_500_000)
    ('1.23 GB', '0.0025 GB')
    """
    return f"{n_bytes / 1e9:.3g} GB"


def free_bytes(folder: Path) -> int:
    """Return how much is free where a folder lies or will lie."""
    return shutil.disk_usage(_existing(folder)).free


def check(needed: Mapping[Path, int]) -> None:
    """Stop if the disks do not hold what is needed, in bytes by folder.

    Raises
    ------
    RepresentationError
        They do not; folders on one disk are counted together.
    """
    by_disk: dict[int, list[Path]] = {}
    for folder in needed:
        by_disk.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    for folders in by_disk.values():
        wanted, free = sum(needed[folder] for folder in folders), free_bytes(folders[0])
        if wanted > free:
            msg = (
                f"{gigabytes(wanted)} are needed at {' and '.join(map(str, folders))}, "
                f"{gigabytes(free)} are free. Take fewer --layers, --dtype float16, a smaller "
                "--limit or --kind item_mean, or free disk space."
            )
            raise RepresentationError(msg)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
