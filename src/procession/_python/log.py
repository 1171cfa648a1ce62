"""The logger `procession`, for modules that every launch waits for: they import faster than `logging` does.

Debug lines follow a launch through its caller.  They cost nothing until `logging` is imported, and then one
look at the level.  PROCESSION_LOG=debug prints them, with times, to standard error.
"""

from __future__ import annotations

import os

from procession._python.imported import get_if_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

LEVEL = "PROCESSION_LOG"
_DEBUG = 10  # logging.DEBUG

_logger: logging.Logger | None = None


def warn(message: str, *arguments: object) -> None:
    """Log a warning as `logging.Logger.warning` does, with the line that calls this function."""
    import logging

    logging.getLogger("procession").warning(message, *arguments, stacklevel=2)


def debug(message: str, *arguments: object) -> None:
    """Log one line of a launch's trace, with the line that calls this function."""
    global _logger
    logger = _logger
    if logger is None:
        get_logger = get_if_imported("logging", "getLogger")
        if get_logger is None:
            return
        logger = _logger = get_logger("procession")
    if logger.isEnabledFor(_DEBUG):
        logger.debug(message, *arguments, stacklevel=2)


def print_log(level: str) -> None:
    """Print the log to standard error from this level on, with times.

    Raises:
        ValueError: there is no such level.
    """
    import logging

    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"{LEVEL} must be debug, info, warning or error, not {level!r}")  # noqa: TRY004
    logger = logging.getLogger("procession")
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d procession: %(message)s", "%H:%M:%S")
    )
    logger.addHandler(handler)
    logger.setLevel(number)


if os.environ.get(LEVEL):
    print_log(os.environ[LEVEL])
