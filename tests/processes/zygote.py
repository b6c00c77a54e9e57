"""What workers are forked from (see ``fork_server.py``); started as ``python zygote.py FD``.

A request is the name of a log file, with the worker's end of its channel.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

import worker
from fork_server import serve


def _become_worker(log: bytes, channel: int) -> NoReturn:
    """The child; leaves by ``_exit``, for what the parent registered to run at exit is not ours."""
    code = 1
    try:
        worker.main(socket.socket(fileno=channel), log.decode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), _become_worker, sockets=1)
