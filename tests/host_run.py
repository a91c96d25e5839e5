"""ComfyUI's modules, imported once for many scripts: host_run.py COMFYUI PACKS. Runs under ComfyUI's Python.

For each line of JSON on stdin, [script, file], a copy of this process runs tests/SCRIPT.py, writes what it prints into the file and its errors
beside it (FILE.err), and ends; a line on stdout says how: its exit status.
"""

import gc
import json
import os
from pathlib import Path
import runpy
import signal
import sys
import traceback

from host_models import own_previews, start


def run(script: str, file: str, *given: str) -> None:
    """In a copy of this process: tests/SCRIPT.py, as if by itself, for half an hour at most."""
    signal.alarm(1800)
    for name, number in ((file, 1), (f"{file}.err", 2)):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.argv = [str(Path(__file__).with_name(f"{script}.py")), *given]
    try:
        with own_previews():
            runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    start(*sys.argv[1:3])
    gc.freeze()  # what all have is not gone through again in each
    for line in sys.stdin:
        if not (child := os.fork()):
            status = 1
            try:
                run(*json.loads(line), *sys.argv[1:3])
                status = 0
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
