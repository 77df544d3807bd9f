"""One small file put in its place whole: written beside it, then renamed over it."""

import os
from contextlib import suppress

from dovetail.errors import WriteError


def replace_file(path: str, data: bytes) -> None:
    """Writes a file that is either the old one or all of the new one, whenever the power fails.

    Raises:
        WriteError: there is no room or no permission; the old file is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    beside = os.path.join(folder, f".{name}.{os.getpid()}.partial")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(beside)
        if not isinstance(error, OSError):
            raise
        raise WriteError(
            f"cannot write `{path}`: {error.strerror}", hint="nothing was changed; --out writes elsewhere"
        ) from error
