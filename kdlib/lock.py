"""One batch at a time in a results folder.

Standard library only: a second start is refused before torch is imported, which takes seconds.
"""

import fcntl
import sys
import time
from pathlib import Path
from typing import IO

BUSY = 75  # EX_TEMPFAIL of sysexits.h


def take(out_dir: Path) -> IO[str] | None:
    """The lock of a results folder, held while the file is open in this process or a child of it;
    None, and a line on stderr, where another batch holds it. OSError where it cannot be written.

    The operating system drops it with its holder, however that ended, so nothing is ever to be
    unlocked by hand. A killed batch may hold it until its memory is freed: so wait a moment.
    """
    home = out_dir / ".batch"
    home.mkdir(parents=True, exist_ok=True)
    file = open(home / "lock", "w")
    for _ in range(6):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.05)
    file.close()
    print(f"another batch is at work in {out_dir}", file=sys.stderr)
    return None
