"""One stage at a time on each GPU of the machine, whoever's it is: a kernel lock on a file, which dies with the process.

The files lie where all users may write, so that they are opened with care: no link is followed, nothing is written to, and what is
no plain file that can be read is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["held_gpu", "open_lock"]

FOLDER_VARIABLE = "MERGELINE_GPU_LOCKS"
SHARED = "/tmp"


@contextlib.contextmanager
def held_gpu() -> Iterator[None]:
    """Hold one GPU for a block. Without a GPU nothing is held."""
    devices = _gpu_numbers()
    if not devices:
        yield
        return
    bound = os.environ.get("MERGELINE_GPU")
    choices = [bound] if bound is not None else devices
    while True:
        for number in choices:
            handle = open_lock(_lock_folder(), number)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            os.environ["MERGELINE_GPU"] = number  # CUDA can be bound once a process: stay with this one
            os.environ["CUDA_VISIBLE_DEVICES"] = number
            try:
                yield
            finally:
                os.close(handle)
            return
        time.sleep(0.2)


def open_lock(folder: Path, number: str) -> int:
    """The file of a GPU's lock, opened to be locked: the one that all users of the machine share, or, where something else stands
    there, one of this user's own."""
    name = f"mergeline-gpu-{number.replace(os.sep, '-')}.lock"
    for _ in range(3):
        with contextlib.suppress(FileNotFoundError):
            if (found := _opened(folder / name)) is not None:
                return found
            break
        with contextlib.suppress(FileExistsError, PermissionError):
            return _made(folder / name)
    own = folder / f"mergeline-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    status = own.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(
            errno.EACCES, f"is another user's; name a folder for the locks of GPUs: {FOLDER_VARIABLE}=FOLDER", str(own)
        )
    return os.open(own / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _opened(path: Path) -> int | None:
    """A plain file, to be read (which is enough for a lock); None if something else stands there, or it is closed to this user."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            return None
        raise
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    return None


def _made(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    os.fchmod(handle, 0o644)  # whatever the umask: others must read it to wait for it
    return handle


def _lock_folder() -> Path:
    """One folder for all projects of a machine, as they share its GPUs."""
    return Path(os.environ.get(FOLDER_VARIABLE, SHARED))


def _gpu_numbers() -> list[str]:
    """The GPUs that this run may use: MERGELINE_GPUS, CUDA_VISIBLE_DEVICES, or all that the driver shows."""
    for variable in ("MERGELINE_GPUS", "CUDA_VISIBLE_DEVICES"):
        if variable in os.environ and "MERGELINE_GPU" not in os.environ:
            return [number.strip() for number in os.environ[variable].split(",") if number.strip()]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
