"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Writes a file beside its target and renames it when all is written.

    Whoever opens the target sees the old file or the new one, never a part. If the block raises,
    the temporary is deleted and the target is as it was. Nothing is forced to the disk.

    Args:
        path: The target; a link is followed, an existing file's permissions are kept.

    Returns:
        A context manager that gives the temporary's path, for the block to create.

    Raises:
        OSError: The target's folder does not exist, or the target is not a regular file.

    Example:
        >>> from graphnn.io.atomic import replacing
        >>> target = getfixture("tmp_path") / "numbers.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    target = Path(os.path.realpath(path))
    # Told here, since an error from below would name the temporary.
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
