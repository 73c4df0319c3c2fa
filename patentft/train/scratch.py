"""A worker's folder on its machine's own disk. What a worker that died by kill -9 left there, the next one removes.

    <TMPDIR>/patentft-<user>/lock            held while folders are made and removed
    <TMPDIR>/patentft-<user>/<random>/lock   held by the folder's owner; the kernel lets go of it when the process ends

So a folder whose lock can be taken belongs to nobody that lives, and folders of other runs that do are left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder, removed at the end; parent: instead of the machine's folder for temporary files."""
    root = (parent or Path(tempfile.gettempdir())) / f"patentft-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / "lock").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        for other in root.iterdir():
            if other.is_dir() and not _is_owned(other):
                shutil.rmtree(other, ignore_errors=True)  # its owner may be about to remove it too
        folder = Path(tempfile.mkdtemp(dir=root))
        lock = (folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a copy of a checkpoint may be under way as the run ends by an error
        lock.close()


def _is_owned(folder: Path) -> bool:
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # it is gone by now
        return True
    return False
