"""What the verbs share in talking: progress on stderr, JSON on stdout, machine facts."""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import esamp.generation

PATIENCE = 2.0
"""Seconds of work after which a progress bar appears."""

talk = Console(stderr=True)


def write_json(data: Any) -> None:
    """Write one JSON object to stdout; NaN would not be JSON and is an error."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def progress_bar(title: str) -> Iterator[esamp.generation.Progress]:
    """Give a function to report progress to; a bar appears on stderr once it takes a while."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=talk, transient=True)
    task = bar.add_task(title, total=1.0)
    start = time.monotonic()
    shown = False

    def report(share: float) -> None:
        nonlocal shown
        if not shown and time.monotonic() - start > PATIENCE:
            shown = True
            bar.start()
        bar.update(task, completed=share)

    try:
        yield report
    finally:
        bar.stop()


@contextmanager
def only_data_on_stdout() -> Iterator[None]:
    """Send what libraries print to stderr; what processes begun within print, for good."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def model_loading() -> Iterator[None]:
    """Say that a model is being loaded; the library's advice on settings is left out."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    talk.print("loading the model")
    yield


def machine() -> dict[str, Any]:
    """Return what a timing depends on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Return the processor's name, if the system gives one, and the instructions torch uses."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", described.read_text(), re.MULTILINE)
        name = names[0].strip() if names else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
