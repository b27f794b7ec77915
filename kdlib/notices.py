"""What a reader of the log is told once, however often it is met."""

import functools
import logging

log = logging.getLogger("kdlib")


@functools.cache
def warn_once(text: str) -> None:
    """A warning, the first time that this process says it."""
    log.warning(text)
