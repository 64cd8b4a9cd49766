from __future__ import annotations

import pytest
from log_samples import ASSETS, config, final, trial

from autotune.errors import LogError
from autotune.log import Skip, TuningLog, compact, merge
from autotune.log.lines import checksum, encode_line
from autotune.trial import FailureKind, Result


def signed(body: bytes) -> bytes:
    """The line of a canonical object, made without the encoder of the package."""
    return body[:-1] + b',"sum":"' + checksum(body).encode() + b'"}\n'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuned.jsonl"


def test_a_missing_log_is_empty_and_is_not_created(path):
    log = TuningLog(path)
    log.ensure_writable()
    log.append([])
    assert log.scan().records == []
    assert list(path.parent.iterdir()) == []


def test_appended_records_come_back_in_order(path):
    records = [trial(0), trial(1, cost=None), final(2, 1e-4, number=1)]
    log = TuningLog(path)
    log.append(records[:2])
    log.append(records[2:])
    scan = TuningLog(path).scan()
    assert scan.records == records
    assert (scan.trials, scan.finals) == (records[:2], records[2:])
    assert scan.corrupt == 0


def test_a_log_behind_a_link_is_written_where_it_is(path, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    TuningLog(link).append([trial(0)])
    compact(link)
    assert link.is_symlink()
    assert len(TuningLog(path).scan().records) == 1


def test_the_golden_log_of_schema_1_is_read():
    scan = TuningLog(ASSETS / "v1.jsonl").scan()
    first, failed = scan.trials
    assert scan.corrupt == 0
    assert first.workload_key == (
        "gemm m=512 n=384 k=256 layout=nn in=float32 acc=float32 out=float32 epilogue=none"
    )
    assert first.id == "20260102T030405Z-0badcafe/000000"
    assert (first.time, first.target_key) == ("2026-01-02T03:04:05.000006Z", "llvm znver4 x8")
    assert first.template_id == ("cpu", "1")
    assert first.search["seed"] == 0
    assert first.config == {"tile_m": [1, 3, 8], "order": "mnk", "pack": True}
    assert first.config_key == '{"order":"mnk","pack":true,"tile_m":[1,3,8]}'
    assert first.result() == Result((1.5e-3, 1.25e-3), phases={"build": 0.5, "run": 0.25})
    assert (first.batch, first.asked, first.ask, first.tell) == (0, 2, 1, 0)
    assert failed.result().failure is FailureKind.CRASHED
    assert failed.source == "another-run/000007"
    assert scan.finals[0].winner == first.config
    assert scan.finals[0].cost == 1.25e-3
    assert scan.finals[0].trials == 2


def test_a_log_of_a_newer_schema_is_read_where_possible_and_never_written(path):
    original = (ASSETS / "v99.jsonl").read_bytes()
    path.write_bytes(original)
    log = TuningLog(path)
    assert len(log.scan().records) == 1
    assert log.scan().skipped == {Skip.NEWER: 2}
    assert log.scan().read_only
    for attempt in (
        log.ensure_writable,
        lambda: log.append([trial()]),
        lambda: compact(path),
        lambda: merge([path], path.with_name("out.jsonl")),
    ):
        with pytest.raises(LogError, match="newer autotune"):
            attempt()
    assert path.read_bytes() == original
    assert not path.with_name("out.jsonl").exists()


def test_a_newer_autotune_that_joins_in_later_is_noticed(path):
    log = TuningLog(path)
    log.append([trial(0)])
    with path.open("ab") as file:
        file.write(signed(b'{"kind":"trial","v":2}'))
    before = path.read_bytes()
    with pytest.raises(LogError, match="newer autotune"):
        log.append([trial(1)])
    assert path.read_bytes() == before


def test_a_log_replaced_by_a_newer_one_is_noticed(path):
    log = TuningLog(path)
    log.append([trial(0)])
    newer = path.with_name("newer.jsonl")
    newer.write_bytes(b'{"v":99,"kind":"header"}\n' + path.read_bytes() * 2)
    newer.rename(path)
    with pytest.raises(LogError, match="newer autotune"):
        log.append([trial(1)])


def test_a_flipped_bit_in_the_version_does_not_make_the_log_read_only(path):
    path.write_bytes(encode_line(trial(0)).replace(b'"v":1,', b'"v":9,'))
    assert TuningLog(path).scan().skipped == {Skip.BAD_SUM: 1}
    TuningLog(path).append([trial(1)])


def test_unknown_fields_and_kinds_survive_compaction_and_merging(path, tmp_path):
    extra = encode_line(trial(0)).replace(b'"v":1,', b'"v":1,"zz_new":{"deep":[1,2]},')
    extra = signed(extra[: extra.rindex(b',"sum"')] + b"}")
    other_kind = signed(b'{"kind":"note","text":"hello","v":1}')
    path.write_bytes(extra + other_kind)
    assert TuningLog(path).scan().records[0].config == config(0)
    assert TuningLog(path).scan().skipped == {Skip.UNKNOWN_KIND: 1}
    out = tmp_path / "out.jsonl"
    assert merge([path], out).kept == 2
    assert compact(path).kept == 2
    assert path.read_bytes() == out.read_bytes() == extra + other_kind


def test_compaction_drops_damage_and_exact_duplicates_only(path):
    lines = [encode_line(trial(number)) for number in range(3)]
    damaged = lines[1].replace(b"run-a", b"run-b", 1)
    path.write_bytes(lines[0] + damaged + lines[0] + b"\n" + lines[2] + lines[1][:50])
    path.chmod(0o640)
    done = compact(path)
    assert (done.kept, done.duplicates, done.corrupt) == (2, 1, 2)
    assert path.read_bytes() == lines[0] + lines[2]
    assert path.stat().st_mode & 0o777 == 0o640
    assert {p.name for p in path.parent.iterdir()} == {"tuned.jsonl", "tuned.jsonl.lock"}


def test_two_records_that_share_an_id_but_not_their_content_are_both_kept(path):
    path.write_bytes(encode_line(trial(0)) + encode_line(trial(0, cost=2e-3)))
    assert compact(path).kept == 2


def test_merging_keeps_what_the_output_held_and_drops_duplicates(path, tmp_path):
    out = tmp_path / "out.jsonl"
    TuningLog(path).append([shared := trial(0), trial(1)])
    TuningLog(out).append([trial(5), shared])
    done = merge([path, path], out)
    assert (done.kept, done.duplicates) == (3, 3)
    ids = [record.id for record in TuningLog(out).scan().records]
    assert ids == ["run-a/000005", "run-a/000000", "run-a/000001"]


def test_a_writer_goes_on_after_another_process_compacted_the_log(path):
    log = TuningLog(path)
    log.append([trial(0)])
    path.write_bytes(path.read_bytes() + b"damage\n")
    compact(path)
    log.append([trial(1)])
    scan = TuningLog(path).scan()
    assert ([record.id for record in scan.records], scan.corrupt) == (
        ["run-a/000000", "run-a/000001"],
        0,
    )


@pytest.mark.parametrize("action", [compact, lambda path: merge([path], path.with_name("out"))])
def test_rewriting_a_missing_log_is_an_error_and_writes_nothing(path, action):
    with pytest.raises(LogError, match="there is no log"):
        action(path)
    assert list(path.parent.iterdir()) == []


def test_records_of_a_run_share_their_header(path):
    TuningLog(path).append([trial(0), trial(1)])
    first, second = TuningLog(path).scan().records
    assert first.hardware is second.hardware
    assert first.config != second.config
