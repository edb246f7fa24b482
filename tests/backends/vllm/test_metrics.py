import gc
import json
import math
import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest
import torch

from esamp.backends.vllm import metrics
from esamp.backends.vllm.totals import Totals

WORKERS = [
    {"rows_steered": 6, "rows_fallback": 1, "groups_open": 2, "distiller_error": 0.5},
    {"rows_steered": 2, "rows_fallback": 3, "groups_open": 1, "distiller_error": 0.1},
    {"rows_steered": 0, "rows_fallback": 0, "groups_open": 0, "distiller_error": None},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the workers of this test write; not there yet."""
    folder = tmp_path / "esamp"
    monkeypatch.setenv(metrics.FOLDER, str(folder))
    return folder


def eventually(holds):
    """Wait for another thread."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def publish(totals):
    """Publish, and return the thread that does; those of other tests may be ending."""
    before = set(threading.enumerate())
    metrics.publish(totals)
    (mine,) = set(threading.enumerate()) - before
    assert mine.name == "esamp-metrics"
    assert mine.daemon
    return mine


# -- files -------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path):
    for number, values in enumerate(WORKERS):
        metrics.write(tmp_path / f"{number}.json", values)
    metrics.write(tmp_path / "0.json", WORKERS[0])
    assert metrics.read_all(tmp_path) == WORKERS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "0.json"
    metrics.write(path, WORKERS[0])
    with pytest.raises(TypeError):
        metrics.write(path, {"rows_steered": object()})
    assert metrics.read_all(tmp_path) == WORKERS[:1]


def test_a_file_that_is_half_written_is_not_read(tmp_path):
    (tmp_path / "0.new").write_text('{"rows_st')
    assert metrics.read_all(tmp_path) == []


@pytest.mark.parametrize("folder", ["", ".", "/nowhere/at/all"])
def test_without_a_folder_there_are_no_workers(folder):
    assert metrics.read_all(Path(folder)) == []


# -- the worker's thread -----------------------------------------------------------------------


def test_totals_are_published_until_they_are_gone(folder, monkeypatch):
    monkeypatch.setattr(metrics, "SECONDS", 0.005)
    totals = Totals(torch.device("cpu"))
    thread = publish(totals)
    eventually(lambda: metrics.read_all(folder))
    assert metrics.read_all(folder) == [totals.read()]
    totals.count(torch.tensor([2.0, math.nan]))
    totals.groups_open = 3
    expected = totals.read()
    eventually(lambda: metrics.read_all(folder) == [expected])
    (path,) = folder.glob("*.json")
    assert path.name.startswith(f"{os.getpid()}-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    del totals
    gc.collect()
    eventually(lambda: not thread.is_alive())
    assert not list(folder.iterdir()), "they would be summed up for ever"


def test_totals_that_stand_still_are_not_written_again(folder, monkeypatch):
    monkeypatch.setattr(metrics, "SECONDS", 0.005)
    written = []
    monkeypatch.setattr(metrics, "write", lambda path, values: written.append(values["steps"]))
    totals = Totals(torch.device("cpu"))
    metrics.publish(totals)
    eventually(lambda: written == [0])
    time.sleep(0.05)
    totals.count(torch.ones(1))
    eventually(lambda: 1 in written)
    assert written == [0, 1]


def test_workers_of_one_process_have_files_of_their_own(folder, monkeypatch):
    monkeypatch.setattr(metrics, "SECONDS", 0.005)
    workers = {steps: Totals(torch.device("cpu")) for steps in (1, 2)}
    for steps, totals in workers.items():
        for _ in range(steps):
            totals.count(torch.ones(1))
        metrics.publish(totals)
    del totals
    eventually(lambda: len(metrics.read_all(folder)) == 2)
    del workers[1]
    gc.collect()
    eventually(lambda: [each["steps"] for each in metrics.read_all(folder)] == [2])


def test_a_folder_that_is_gone_already_ends_in_peace(folder, monkeypatch):
    monkeypatch.setattr(metrics, "SECONDS", 0.005)
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    totals = Totals(torch.device("cpu"))
    thread = publish(totals)
    eventually(lambda: metrics.read_all(folder))
    shutil.rmtree(folder)
    del totals
    gc.collect()
    eventually(lambda: not thread.is_alive())
    assert not failed


# -- the collector -----------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """A registry of our own, and a process in which no folder is named."""
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    monkeypatch.setattr(client, "REGISTRY", registry)
    monkeypatch.setenv(metrics.FOLDER, "")
    monkeypatch.delenv(metrics.FOLDER)
    return registry


def samples(registry):
    return {each.name: each.value for metric in registry.collect() for each in metric.samples}


def test_the_collector_sums_the_workers_up(folder):
    client = pytest.importorskip("prometheus_client")
    folder.mkdir()
    for number, values in enumerate(WORKERS):
        (folder / f"{number}.json").write_text(json.dumps(values))
    registry = client.CollectorRegistry()
    registry.register(metrics.TotalsCollector())
    assert samples(registry) == {
        "esamp_rows_steered_total": 8,
        "esamp_rows_fallback_total": 4,
        "esamp_groups_open": 3,
        "esamp_distiller_error": pytest.approx((6 * 0.5 + 2 * 0.1) / 8),
    }
    text = client.generate_latest(registry).decode()
    assert "# TYPE esamp_rows_steered_total counter" in text
    assert "# TYPE esamp_groups_open gauge" in text


def test_an_error_that_is_not_known_is_no_number(folder):
    client = pytest.importorskip("prometheus_client")
    folder.mkdir()
    metrics.write(folder / "0.json", WORKERS[2])
    registry = client.CollectorRegistry()
    registry.register(metrics.TotalsCollector())
    shown = samples(registry)
    assert math.isnan(shown.pop("esamp_distiller_error"))
    assert set(shown.values()) == {0}


def test_what_a_worker_publishes_can_be_collected(registry, tmp_path, monkeypatch):
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    totals = Totals(torch.device("cpu"))
    totals.count(torch.tensor([2.0]))
    metrics.publish(totals)
    eventually(lambda: metrics.read_all(tmp_path))
    metrics.register()
    assert samples(registry)["esamp_rows_steered_total"] == 1
    assert samples(registry)["esamp_distiller_error"] == 4.0


def test_registering_twice_registers_once_and_makes_no_folder(registry, monkeypatch):
    ends = []
    monkeypatch.setattr(metrics.atexit, "register", lambda *call, **how: ends.append(call))
    metrics.register()
    folder = os.environ[metrics.FOLDER]
    metrics.register()
    assert os.environ[metrics.FOLDER] == folder
    assert len(registry._collector_to_names) == 1
    assert not Path(folder).exists()
    assert [Path(call[1]) for call in ends] == [Path(folder)]
    assert samples(registry) == {}


def test_a_folder_that_is_named_already_is_kept_and_not_ours_to_remove(registry, monkeypatch):
    ends = []
    monkeypatch.setattr(metrics.atexit, "register", lambda *call, **how: ends.append(call))
    monkeypatch.setenv(metrics.FOLDER, "/somewhere/else")
    metrics.register()
    assert os.environ[metrics.FOLDER] == "/somewhere/else"
    assert ends == []
