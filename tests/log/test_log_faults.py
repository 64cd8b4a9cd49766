"""What may happen to a log in the field: killed writers, damage, full disks, hostile content."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from log_samples import ROOT, trial

from autotune.errors import LogError
from autotune.log import Skip, TuningLog, best, compact, merge
from autotune.log.lines import MAX_LINE, checksum, encode_line

WRITER = [sys.executable, str(Path(__file__).with_name("log_writer.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuned.jsonl"


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [*WRITER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)


def output_of(*arguments: object) -> list[str]:
    child = start(*arguments)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    return out.decode().splitlines()


def ids(path: Path) -> list[str]:
    return [record.id for record in TuningLog(path).scan().records]


def test_a_log_cut_at_any_byte_loses_its_last_record_only(path):
    lines = [encode_line(trial(number)) for number in range(3)]
    intact, last = lines[0] + lines[1], lines[2]
    for length in range(len(last)):
        path.write_bytes(intact + last[:length])
        scan = TuningLog(path).scan()
        assert [record.id for record in scan.records] == ["run-a/000000", "run-a/000001"]
        assert scan.skipped == ({Skip.TORN: 1} if length else {})


def test_an_append_after_a_torn_line_starts_its_own_line_and_keeps_what_was_torn(path):
    lines = [encode_line(trial(number)) for number in range(3)]
    new = trial(9)
    for length in range(1, len(lines[1]), 7):
        path.write_bytes(lines[0] + lines[1][:length])
        TuningLog(path).append([new])
        assert path.read_bytes() == lines[0] + encode_line(new)
        assert path.with_name("tuned.jsonl.torn").read_bytes() == lines[1][:length] + b"\n"
        path.with_name("tuned.jsonl.torn").unlink()


def test_a_torn_line_longer_than_the_read_buffer_is_set_aside_whole(path):
    torn = b"x" * 200_000
    path.write_bytes(encode_line(trial(0)) + torn)
    TuningLog(path).append([trial(1)])
    assert ids(path) == ["run-a/000000", "run-a/000001"]
    assert path.with_name("tuned.jsonl.torn").read_bytes() == torn + b"\n"


def test_a_tail_torn_by_another_process_between_two_appends_is_set_aside_too(path):
    log = TuningLog(path)
    log.append([trial(0)])
    with path.open("ab") as file:
        file.write(b'{"torn')
    log.append([trial(1)])
    assert ids(path) == ["run-a/000000", "run-a/000001"]
    assert TuningLog(path).scan().corrupt == 0


def test_a_flipped_byte_costs_its_own_record_and_is_counted(path):
    rng = random.Random(0)
    lines = [encode_line(trial(number)) for number in range(3)]
    middle, unharmed = lines[1], 0
    for position in range(len(middle) - 1):
        damaged = bytearray(middle)
        damaged[position] ^= rng.randrange(1, 256)
        path.write_bytes(lines[0] + bytes(damaged) + lines[2])
        scan = TuningLog(path).scan()
        kept = [record.id for record in scan.records]
        if kept == ["run-a/000000", "run-a/000001", "run-a/000002"]:
            # The flip changed the spelling only, such as 1e-3 to 1E-3.
            assert json.loads(damaged) == json.loads(middle)
            unharmed += 1
        else:
            assert kept == ["run-a/000000", "run-a/000002"]
            assert scan.corrupt >= 1
            assert scan.where[next(iter(scan.skipped))][0] == 2
    assert unharmed < 5


def test_eight_processes_append_at_once_without_mixing_their_records_up(path):
    runs = [f"run-{number}" for number in range(8)]
    children = [start("write", path, run, 200) for run in runs]
    acknowledged: list[str] = []
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        acknowledged += out.decode().split()
    scan = TuningLog(path).scan()
    found = [record.id for record in scan.records]
    assert len(found) == len(set(found)) == 1600
    assert set(found) == set(acknowledged)
    assert Counter(record.run for record in scan.records) == dict.fromkeys(runs, 200)
    assert scan.skipped == {}


def test_a_writer_killed_at_any_moment_costs_at_most_the_record_in_flight(path):
    rng = random.Random(0)
    total = 0
    for attempt in range(20):
        run = f"run-{attempt:02d}"
        child = start("write", path, run, 100_000)
        acknowledged = [child.stdout.readline() for _ in range(rng.randrange(1, 30))]
        child.send_signal(signal.SIGKILL)
        # Not communicate(), which would miss what readline() has buffered.
        acknowledged += child.stdout.read().splitlines()
        child.wait(timeout=60)
        scan = TuningLog(path).scan()
        found = [record.id for record in scan.records if record.run == run]
        assert found == [f"{run}/{number:06d}" for number in range(len(found))]
        assert len(acknowledged) <= len(found) <= len(acknowledged) + 1
        total += len(found)
    TuningLog(path).append([trial(0)])
    assert len(ids(path)) == total + 1


def test_a_live_lock_holder_is_waited_for_and_a_dead_one_is_not(path):
    log = TuningLog(path, timeout=0.2)
    child = start("hold", path)
    try:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(LogError, match="locked by another process"):
            log.append([trial(0)])
        assert not path.exists()
    finally:
        child.kill()
        child.communicate(timeout=60)
    log.append([trial(0)])
    assert ids(path) == ["run-a/000000"]


# 0 makes the write fail; with 700 it is cut short; with 1200 it is cut in the second record.
@pytest.mark.parametrize("slack", [0, 700, 1200])
def test_a_full_disk_is_an_error_that_leaves_the_log_as_it_was(path, slack):
    TuningLog(path).append([trial(0)])
    before = path.read_bytes()
    (message,) = output_of("fill", path, slack)
    assert "cannot append" in message
    assert "already in it are intact" in message
    assert path.read_bytes() == before
    TuningLog(path).append([trial(1)])
    assert ids(path) == ["run-a/000000", "run-a/000001"]


def test_a_full_disk_where_a_torn_tail_must_go_leaves_the_log_as_it_was(path):
    torn = encode_line(trial(0))[:500]
    path.write_bytes(torn)
    path.with_name("tuned.jsonl.torn").write_bytes(b"-" * 600)
    (message,) = output_of("fill", path, 0)
    assert "the log is unchanged" in message
    assert path.read_bytes() == torn


def test_a_folder_without_write_permission_is_reported_early_and_late():
    # Not tmp_path: its parents are closed to the unprivileged child.
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "tuned.jsonl"
        TuningLog(path).append([trial(0)])
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        before = sorted(folder.iterdir())
        early, late = output_of("unprivileged", path)
        assert "no permission to write" in early
        assert "no permission to write" in late
        assert sorted(folder.iterdir()) == before
        assert ids(path) == ["run-a/000000"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is a directory"),
        ("missing/tuned.jsonl", "does not exist; create it first"),
        ("file/tuned.jsonl", "is not a folder"),
        ("pipe", "not a regular file"),
    ],
)
def test_an_impossible_path_is_an_error_that_says_why_and_creates_nothing(tmp_path, name, reason):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LogError, match=reason):
        TuningLog(tmp_path / name).ensure_writable()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["", "missing/tuned.jsonl", "file/tuned.jsonl"])
def test_appending_to_an_impossible_path_is_an_error_too(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(LogError):
        TuningLog(tmp_path / name).append([trial(0)])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_reading_a_directory_as_a_log_is_an_error(tmp_path):
    with pytest.raises(LogError, match="cannot read"):
        TuningLog(tmp_path).scan()


def forged(find: bytes, replacement: bytes) -> bytes:
    """A line with a valid checksum whose content the package would never write."""
    line = encode_line(trial(1))
    assert find in line
    body = line[: line.rindex(b',"sum"')].replace(find, replacement) + b"}"
    return body[:-1] + b',"sum":"' + checksum(body).encode() + b'"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[]\n", Skip.NOT_A_RECORD),
        (b"null\n", Skip.NOT_A_RECORD),
        (b"\xff\xfe{}\n", Skip.BAD_JSON),
        (b'{"v":1,"kind":"trial","cost":NaN}\n', Skip.BAD_JSON),
        (b'{"v":1,"kind":"trial"}\n', Skip.BAD_SUM),
        (b'{"v":1,"kind":"trial","x":' + b"[" * 100_000 + b"\n", Skip.BAD_JSON),
        (b'{"v":1,"kind":"trial","sum":"0","x":' + b"[" * 9999 + b"]" * 9999 + b"}\n", None),
        (b"x" * (10 * MAX_LINE) + b"\n", Skip.TOO_LONG),
        (forged(b"[0.001]", b"[NaN]"), Skip.BAD_JSON),
        (forged(b"[0.001]", b"[Infinity]"), Skip.BAD_JSON),
        (forged(b"[0.001]", b"[1e999]"), Skip.NOT_A_RECORD),
        (forged(b"[0.001]", b"[0]"), Skip.NOT_A_RECORD),
        (forged(b"[0.001]", b"[-1]"), Skip.NOT_A_RECORD),
        (forged(b"[0.001]", b"[]"), Skip.NOT_A_RECORD),
        (forged(b"[0.001]", b'["0.001"]'), Skip.NOT_A_RECORD),
        (forged(b'"failure":null', b'"failure":"crashed"'), Skip.NOT_A_RECORD),
        (forged(b'"batch":1', b'"batch":-1'), Skip.NOT_A_RECORD),
        (forged(b'"v":1', b'"v":0'), Skip.NOT_A_RECORD),
    ],
    ids=range(18),
)
def test_a_hostile_line_is_skipped_and_its_neighbours_are_not(path, line, reason):
    path.write_bytes(encode_line(trial(0, 5e-3)) + line + encode_line(trial(2)))
    scan = TuningLog(path).scan()
    assert [record.id for record in scan.records] == ["run-a/000000", "run-a/000002"]
    assert sum(scan.skipped.values()) == 1
    assert reason is None or scan.skipped == {reason: 1}
    assert best(scan.records).id == "run-a/000002"
    TuningLog(path).append([trial(3)])


def test_of_duplicate_keys_the_last_one_is_what_both_reader_and_checksum_see(path):
    path.write_bytes(forged(b'"costs":[0.001]', b'"costs":[1e-9],"costs":[0.002]'))
    assert TuningLog(path).scan().trials[0].costs == (0.002,)


def test_a_line_of_10_megabytes_is_read_past_in_little_memory(path):
    path.write_bytes(b"[" * (10 << 20) + b"\n" + encode_line(trial(0)) + b"[" * (10 << 20))
    tracemalloc.start()
    try:
        scan = TuningLog(path).scan()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(scan.records) == 1
    assert scan.skipped == {Skip.TOO_LONG: 1, Skip.TORN: 1}
    assert peak < 5 * MAX_LINE


def test_line_numbers_of_damage_are_kept_for_the_first_few_only(path):
    path.write_bytes(b"damage\n" * 1000)
    scan = TuningLog(path).scan()
    assert scan.skipped == {Skip.BAD_JSON: 1000}
    assert scan.where == {Skip.BAD_JSON: [1, 2, 3, 4, 5]}


def test_a_log_with_blank_lines_and_foreign_line_ends_is_read(path):
    line = encode_line(trial(0))
    path.write_bytes(b"\n" + line.replace(b"\n", b"\r\n") + b"  \r\n" + encode_line(trial(1)))
    assert TuningLog(path).scan().skipped == {}
    assert len(ids(path)) == 2


FOREIGN = {
    "text": b"# Notes\n\nNothing of this may be lost.\n",
    "JSON": b'{\n  "cache": {}\n}\n',
    "JSON lines": b'{"kind": "note"}\n{"a": 2}\n',
    "JSON without an end": b'{"cache": {}}',
    "a word without an end": b"notes",
    "binary": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_no_log_is_never_written_to(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    log = tmp_path / "log.jsonl"
    TuningLog(log).append([trial()])
    for write in (
        TuningLog(path).ensure_writable,
        lambda: TuningLog(path).append([trial()]),
        lambda: compact(path),
        lambda: merge([log], path),
    ):
        with pytest.raises(LogError, match=r"other is no tuning log.*name another file"):
            write()
    assert path.read_bytes() == content
    assert not (tmp_path / "other.torn").exists()


@pytest.mark.parametrize("size", [1, 5, 300])
def test_a_torn_first_record_is_set_aside_but_not_compacted_away(size: int, tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    torn = encode_line(trial())[:size]
    for content in (torn, bytes(size)):  # what is zero had been allotted when power failed
        path.write_bytes(content)
        with pytest.raises(LogError, match="is no tuning log"):
            compact(path)
        assert path.read_bytes() == content
        TuningLog(path).append([trial()])
        assert len(TuningLog(path).scan().trials) == 1
        assert TuningLog(path).torn_path.read_bytes() == content + b"\n"
        TuningLog(path).torn_path.unlink()
