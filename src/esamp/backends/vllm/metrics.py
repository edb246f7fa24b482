"""From the workers' totals to `/metrics`.

A worker's thread writes its totals to a small private file twice a second, off the steps; a
collector in the API server reads the files when it is scraped. Both know the folder from the
environment, which workers inherit. Workers on other machines (Ray) are not seen here; use
`collective_rpc("esamp_stats")`.
"""

import atexit
import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import ref

from esamp.backends.vllm.totals import Totals

FOLDER = "ESAMP_METRICS_FOLDER"
SECONDS = 0.5


def register() -> None:
    """Name the folder, once a family of processes, and register the collector, once a process."""
    from prometheus_client import REGISTRY

    if FOLDER not in os.environ:
        # Named, not made: an inert engine leaves nothing behind.
        folder = Path(tempfile.gettempdir()) / f"esamp-{secrets.token_hex(8)}"
        os.environ[FOLDER] = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if not any(isinstance(each, TotalsCollector) for each in REGISTRY._collector_to_names):
        REGISTRY.register(TotalsCollector())


def publish(totals: Totals) -> None:
    """Write a worker's totals to its file from now on, until they are gone."""
    folder = Path(os.environ[FOLDER])
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    held = ref(totals)

    def work() -> None:
        written = None
        stop = threading.Event()
        while (current := held()) is not None:
            values = current.read()
            del current
            if values != written:
                try:
                    write(path, values)
                except FileNotFoundError:  # the folder goes with the process that named it
                    return
                written = values
            stop.wait(SECONDS)
        path.unlink(missing_ok=True)

    threading.Thread(target=work, name="esamp-metrics", daemon=True).start()


def write(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(values))
    fresh.replace(path)


class TotalsCollector:
    """Sums up the workers' files when Prometheus asks."""

    def describe(self) -> list[Any]:
        """Nothing is known before the first scrape."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the four metrics; none where no worker is armed."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        workers = read_all(Path(os.environ.get(FOLDER, "")))
        if not workers:
            return
        steered = sum(each["rows_steered"] for each in workers)
        yield CounterMetricFamily(
            "esamp_rows_steered", "Tokens drawn from steered logits.", value=steered
        )
        yield CounterMetricFamily(
            "esamp_rows_fallback",
            "Tokens that were to be steered and were drawn plainly: no free group, a state that is "
            "not finite, or a fault.",
            value=sum(each["rows_fallback"] for each in workers),
        )
        yield GaugeMetricFamily(
            "esamp_groups_open",
            "Groups with a distiller.",
            value=sum(each["groups_open"] for each in workers),
        )
        squares = sum((each["distiller_error"] or 0.0) * each["rows_steered"] for each in workers)
        yield GaugeMetricFamily(
            "esamp_distiller_error",
            "Mean squared error of the distillers over all steered tokens, relative to the state.",
            value=squares / steered if steered else float("nan"),
        )


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Return the totals of all workers."""
    if not folder.name or not folder.is_dir():
        return []
    workers = []
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):  # its worker has just ended
            workers.append(json.loads(path.read_text()))
    return workers
