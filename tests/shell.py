"""Commands as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path


def execute(command):
    # The command `esamp` is installed beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
