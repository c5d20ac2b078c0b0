"""The command line: arguments in, an exit code out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import CompressError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `compress ARGUMENTS` (default: the process's) and return its exit code.

    0: done. 2: a user's mistake, one line each on stderr. 1: a failed verification or expectation. 130: Ctrl-C.
    Anything else that is raised is a bug of ours and keeps its traceback.
    """
    from .app import build

    try:
        given = None if arguments is None else list(arguments)
        code = build()(args=given, prog_name="compress", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "Abort":  # what Typer makes of Ctrl-C at a prompt
            return INTERRUPTED
        if not hasattr(error, "format_message"):  # not one of Typer's complaints about the arguments
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "compress"
        print(f"{command}: {' '.join(error.format_message().split())} ({command} --help)", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
