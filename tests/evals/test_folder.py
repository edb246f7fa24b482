import errno
import subprocess
import sys
from pathlib import Path

import pytest

from esamp.errors import EsampError, UsageError
from esamp.evals import folder
from esamp.evals.folder import Log, RunFolder
from esamp.evals.records import Key
from evals.runs import config, run_in

KEYS = [Key("x", 0, item) for item in "abcd"]
BATCHES = [KEYS[:2], KEYS[2:]]


def lines(keys):
    return [key._asdict() | {"text": f"ü{key.item}"} for key in keys]


def take(path):
    with RunFolder.open(path, config()):
        pass


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for batch in BATCHES:
        log.append(lines(batch))
    return log


def test_what_was_appended_is_read(log):
    assert list(log.lines()) == lines(KEYS)
    assert log.resume(BATCHES) == 2


def test_lines_may_be_read_from_the_middle_on(log):
    for start in range(6):
        assert list(log.lines(start)) == lines(KEYS)[start:]


def test_a_batch_that_breaks_off_while_it_is_written_is_cut(log):
    def breaks():
        yield lines(KEYS)[2]
        raise KeyboardInterrupt

    log.path.unlink()
    log.append(lines(BATCHES[0]))
    with pytest.raises(KeyboardInterrupt):
        log.append(breaks())
    assert log.resume(BATCHES) == 1
    assert list(log.lines()) == lines(BATCHES[0])


def test_every_prefix_of_the_file_is_cut_to_whole_batches(log):
    """A kill while a batch is written leaves some first bytes of it."""
    whole = log.path.read_bytes()
    first = len("".join(f"{line}" for line in whole.decode().splitlines(True)[:2]).encode())
    for size in range(len(whole) + 1):
        log.path.write_bytes(whole[:size])
        done = log.resume(BATCHES)
        assert done == (size >= first) + (size == len(whole))
        assert log.path.read_bytes() == whole[: (0, first, len(whole))[done]]


def test_garbage_at_the_end_is_cut_and_before_it_refused(log):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b"\0\0\0\0\n")
    assert log.resume(BATCHES) == 2
    assert log.path.read_bytes() == whole
    rows = whole.splitlines(True)
    log.path.write_bytes(rows[0] + b"{broken\n" + rows[2] + rows[3])
    with pytest.raises(UsageError, match="line 2 is broken, and it is not the last one"):
        log.resume(BATCHES)


def test_lines_of_another_run_are_refused(log):
    other = [[Key("y", 0, "a")]]
    with pytest.raises(UsageError, match="another run"):
        log.resume(other)
    with pytest.raises(UsageError, match="more lines than this run"):
        log.resume(BATCHES[:1])


def test_a_full_disk_is_one_sentence_and_says_how_to_go_on(log, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(EsampError, match=r"No space left on device.*run the same command again"):
        log.append(lines(KEYS[:1]))


def test_a_number_that_json_does_not_have_is_not_written(log):
    with pytest.raises(ValueError, match="JSON"):
        log.append([KEYS[0]._asdict() | {"value": float("nan")}])


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        take(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        take(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="no run folder"):
        RunFolder.existing(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


HOLD = """
import sys
from pathlib import Path
from esamp.evals.folder import RunFolder
from evals.runs import config
with RunFolder.open(Path(sys.argv[1]), config()):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_written_by_one_process_until_it_is_killed(tmp_path, monkeypatch):
    run_in(tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    tests = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        cwd=tests,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "open\n"
        monkeypatch.setattr(folder, "PATIENCE", 0.1)
        with pytest.raises(UsageError, match="is being written by another process: wait for it"):
            run_in(tmp_path, config(seeds=[0, 1, 2]))
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
        other.kill()
        other.wait()
        take(tmp_path)


def test_a_folder_of_another_version_is_not_read(tmp_path):
    run_in(tmp_path / "run")
    folder = RunFolder.existing(tmp_path / "run")
    folder.write("config.json", folder.read("config.json") | {"format": 99})
    with pytest.raises(UsageError, match="has format 99"):
        RunFolder.existing(tmp_path / "run")


def test_a_configuration_is_read_back(tmp_path):
    run_in(tmp_path / "run")
    stored = RunFolder.existing(tmp_path / "run").config()
    assert not stored.differences(RunFolder.existing(tmp_path / "run").read("config.json"))


def test_what_a_run_has_run_on_before_is_kept(tmp_path):
    here, there, elsewhere = ({"cores": cores} for cores in (2, 64, 8))
    folder = RunFolder(tmp_path)
    for machine in (here, there):
        folder.write_environment(machine)
        assert folder.read("environment.json") == machine, "nothing was drawn yet"
    folder.samples.append(lines(KEYS[:1]))
    for machine in (there, here, here, elsewhere, there):
        folder.write_environment(machine)
    assert folder.read("environment.json") == there | {"others": [here, elsewhere]}
