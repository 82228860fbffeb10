"""The entry point: runs a command and turns every error into a message on stderr and an exit code.

Exit codes: 0 done · 1 refused, or something is wrong with the input · 2 called or configured wrongly · 3 something that
it needs is not there right now. No traceback reaches a person; METACORE_DEBUG=1 asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from metacore.errors import MetacoreError, Misconfigured, NotWired, Unavailable

DONE: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130
"""What shells expect after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `metacore` with `arguments` (default: the process's) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that knows no UTF-8 gets escapes, not a crash.
            stream.reconfigure(errors="backslashreplace")
    try:
        from metacore.cli.commands import build_command

        build_command().main(args=None if arguments is None else list(arguments), prog_name="metacore")
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or DONE
        print(exit_.code, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    except Exception as error:
        return _report(error)
    return DONE


def exit_code(error: BaseException) -> int:
    """The only place where errors become exit codes."""
    if isinstance(error, Unavailable | NotWired | ConnectionError | TimeoutError):
        return UNAVAILABLE
    return USAGE if isinstance(error, Misconfigured) else REFUSED


def _report(error: BaseException) -> int:
    from metacore.cli import output

    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if os.environ.get("METACORE_DEBUG", "").lower() in ("1", "true", "yes"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, MetacoreError):
        output.show_error(error)
    elif isinstance(error, OSError):
        place = f": {error.filename}" if error.filename is not None else ""
        output.show_failure(f"{error.strerror or type(error).__name__}{place}")
    else:
        output.show_failure(f"internal error: {type(error).__name__}; METACORE_DEBUG=1 shows where")
    return exit_code(error)
