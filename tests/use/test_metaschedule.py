"""Winners become MetaSchedule databases that TVM alone applies, and come back from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from use_samples import PROFILE, write_log

from autotune import Gemm
from autotune.call import aligned_empty
from autotune.cli import main
from autotune.errors import NotApplicable
from autotune.hw_profiles import tvm_target
from autotune.interchange.metaschedule import RECORDS, WORKLOADS, import_metaschedule
from autotune.interchange.plain import lowered, plain_products, relax_module, schedule_plain
from autotune.kernels.base import get_template
from autotune.kernels.verify import make_problem, mismatch
from autotune.log import TuningLog
from autotune.search.space import Config

PLAIN = [
    Gemm(64, 96, 32),
    Gemm(64, 96, 32, layout="nt"),
    Gemm(64, 96, 32, epilogue="bias_relu"),
    Gemm(64, 96, 32, layout="nt", epilogue="bias"),
]


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["log", *map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ms") / "tuned.jsonl"
    changes = {"pack_a": "block", "pack_b": "block", "micro_m": 4}
    write_log(path, PLAIN, changes=changes)
    return write_log(path, [PLAIN[0]], threads=2, changes={**changes, "parallel": "fused"})


@pytest.fixture(scope="module")
def folder(log: Path) -> Path:
    assert command("export-metaschedule", log, log.parent / "db") == 0
    return log.parent / "db"


def database(folder: Path, threads: int) -> Any:
    from tvm.s_tir import meta_schedule as ms

    (place,) = folder.glob(f"*-{threads}t-*")
    return ms.database.JSONDatabase(
        path_workload=str(place / WORKLOADS), path_tuning_record=str(place / RECORDS)
    )


def aligned(arrays: list[Any]) -> list[Any]:
    """TVM's own code takes it for granted that arrays start on a cache line."""
    copies = [aligned_empty(x.shape, x.dtype.name) for x in arrays]
    for copy, array in zip(copies, arrays, strict=True):
        copy[...] = array
    return copies


@pytest.mark.parametrize(
    "workload, threads",
    [*((workload, 1) for workload in PLAIN), (PLAIN[0], 2)],
    ids=lambda x: f"{x.layout}-{x.epilogue}" if isinstance(x, Gemm) else str(x),
)
def test_tvm_alone_applies_it_to_a_relax_module(folder: Path, workload: Gemm, threads: int) -> None:
    import tvm
    from tvm import relax

    target = tvm.target.Target(tvm_target(PROFILE, threads))
    module = lowered(relax_module(workload))
    with target, database(folder, threads), tvm.transform.PassContext(opt_level=3):
        applied = relax.transform.MetaScheduleApplyDatabase(enable_warning=True)(module)
    text = applied.script()
    assert "T.vectorized" in text and '"autotune"' in text
    assert ("T.parallel" in text) == (threads == 2)
    if workload.layout == "nn":  # what TVM offers for this in one step
        from tvm.s_tir import meta_schedule as ms

        module = relax_module(workload)
        executable = ms.relax_integration.compile_relax(
            database(folder, threads), module, target, None
        )
    else:
        executable = tvm.compile(applied, target=target)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    problem = make_problem(workload)
    inputs = [tvm.runtime.from_dlpack(x) for x in aligned(problem.inputs)]
    result = machine["main"](*inputs).numpy()
    assert mismatch(workload, result, problem.reference) is None


def test_tvm_alone_applies_it_to_a_te_function(folder: Path) -> None:
    import tvm
    from tvm.s_tir import meta_schedule as ms

    workload = PLAIN[0]
    target = tvm.target.Target(tvm_target(PROFILE, 1))
    _, plain = plain_products(workload)
    schedule = ms.tir_integration.compile_tir(database(folder, 1), plain, target)
    function = tvm.compile(schedule.mod, target=target)["main"]
    problem = make_problem(workload)
    *inputs, out = aligned([*problem.inputs, np.full((64, 96), np.nan, np.float32)])
    function(*inputs, out)
    assert mismatch(workload, out, problem.reference) is None


@pytest.mark.parametrize("template", ["cpu_tile", "cpu_paper"])
def test_many_configs_replay_and_compute_the_product(template: str) -> None:
    import random

    import tvm
    from tvm.s_tir import Schedule

    workload = Gemm(32, 64, 16)
    space = get_template(template).space(workload, PROFILE, 2)
    target = tvm.target.Target(tvm_target(PROFILE, 2))
    rng = random.Random(3)
    problem, done = make_problem(workload), 0
    *inputs, out = aligned([*problem.inputs, np.zeros((32, 64), np.float32)])
    for module in plain_products(workload):
        for _ in range(40):
            config = space.sample(rng)
            try:
                schedule = schedule_plain(workload, template, config, module, ("autotune", "{}"))
            except NotApplicable as error:
                assert "do not divide 32 x 64" in str(error)
                continue
            replayed = Schedule(module)
            schedule.trace.apply_to_schedule(replayed, remove_postproc=False)
            tvm.ir.assert_structural_equal(replayed.mod, schedule.mod)
            out[...] = np.nan
            tvm.compile(replayed.mod, target=target)["main"](*inputs, out)
            assert mismatch(workload, out, problem.reference) is None, config
            done += 1
            if done % 8 == 0:
                break
    assert done == 16


def test_there_and_back(folder: Path, log: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.jsonl"
    assert command("import-metaschedule", folder, back) == 0
    ours, theirs = TuningLog(log).scan().trials, TuningLog(back).scan().trials
    assert len(theirs) == len(PLAIN) + 1

    def facts(trial: Any) -> tuple[Any, ...]:
        return (
            trial.workload_key,
            trial.target_key,
            trial.template_id,
            trial.config_key,
            trial.costs,
            json.dumps(trial.target, sort_keys=True),
        )

    assert sorted(map(facts, theirs)) == sorted(map(facts, ours))
    # A second time there is nothing new.
    assert command("import-metaschedule", folder, back) == 1
    assert len(TuningLog(back).scan().trials) == len(PLAIN) + 1


def test_a_name_with_odd_characters_does_no_harm(log: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    for trial in TuningLog(log).scan().trials[:1]:
        import msgspec

        target = {**trial.target, "name": 'Odd "CPU" \\ Schr\u00f6dinger\u2122\n'}
        TuningLog(odd).append([msgspec.structs.replace(trial, target=target)])
    assert command("export-metaschedule", odd, tmp_path / "db") == 0
    assert command("import-metaschedule", tmp_path / "db", tmp_path / "back.jsonl") == 0
    (back,) = TuningLog(tmp_path / "back.jsonl").scan().trials
    assert back.target["name"] == "Odd ?CPU? ? Schr?dinger??"
    assert back.workload_key == PLAIN[0].key


def test_what_cannot_be_expressed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, [Gemm(61, 96, 32)], changes={"micro_m": 4})
    write_log(log, [Gemm(64, 96, 32, prepacked=True), Gemm(64, 96, 32, layout="tn")])
    write_log(log, [Gemm(64, 96, 32, epilogue="gelu"), Gemm(64, 96, 32, dtype="int8")])
    write_log(log, [Gemm(1, 96, 64, layout="nt"), Gemm(64, 96, 32, batch=2)])
    assert command("export-metaschedule", log, tmp_path / "db") == 1
    said = capsys.readouterr().out
    assert "tiles of 4 x" in said and "do not divide 61 x 96" in said
    assert "prepacked B" in said and "transposes A" in said and "epilogue gelu" in said
    assert "batches and scaled" in said
    assert "not int8" in said and "cpu_inner computes by other means" in said
    assert "0 of 7 workloads exported" in said
    assert not (tmp_path / "db").exists()


def test_where_the_winner_pads_the_fastest_that_does_not_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autotune.log import run_header, trial_record
    from autotune.trial import Result

    workload = Gemm(60, 96, 32)
    vector = PROFILE.simd_bits // 32  # so narrow that 8 rows of it fit the registers of any CPU
    padding = {"micro_m": 8, "micro_n": vector, "block_m": 4, "tail": "predicate"}
    log = write_log(tmp_path / "log.jsonl", [workload], changes=padding)
    (trial,) = TuningLog(log).scan().trials
    header = run_header(
        workload, target=trial.target, target_key=trial.target_key, template=trial.template
    )
    slower = Config({**get_template("cpu_tile").space(workload, PROFILE, 1).defaults[0]})
    slower = slower.replace(micro_m=6, micro_n=vector)
    place = {"batch": 0, "asked": 1, "ask": 0, "tell": 0}
    TuningLog(log).append([trial_record(header, 0, slower.to_json(), Result((2.5e-3,)), **place)])
    assert command("export-metaschedule", log, tmp_path / "db") == 0
    assert "2.00 x the winner's time, because its tiles of 8 x" in capsys.readouterr().out
    assert command("import-metaschedule", tmp_path / "db", tmp_path / "back.jsonl") == 0
    (back,) = TuningLog(tmp_path / "back.jsonl").scan().trials
    assert back.config["micro_m"] == 6


def test_foreign_and_damaged_records_are_skipped_with_a_reason(
    folder: Path, tmp_path: Path
) -> None:
    (place,) = folder.glob("*-2t-*")
    lines = (place / RECORDS).read_text().splitlines()
    foreign = json.loads(lines[0])
    foreign[1][0][0] = [i for i in foreign[1][0][0] if i[0] != "Annotate"]
    timeless = json.loads(lines[0])
    timeless[1][1] = None
    broken = lines[0].replace("gemm", "conv")
    database = tmp_path / "db"
    database.mkdir()
    texts = [json.dumps(foreign), json.dumps(timeless), "{", "[1]", broken, lines[0]]
    (database / RECORDS).write_text("\n".join(texts) + "\n")
    done = import_metaschedule(database, TuningLog(tmp_path / "log.jsonl"))
    assert done.added == 1
    reasons = dict(done.skipped)
    assert reasons.pop("not from autotune: a foreign trace is no config of a template") == 1
    assert reasons.pop("it has no time") == 1
    assert reasons.pop("the line is no tuning record") == 2
    ((reason, count),) = reasons.items()
    assert "unknown operator 'conv'" in reason and count == 1


def test_refusals(folder: Path, log: Path, tmp_path: Path) -> None:
    assert command("export-metaschedule", log, folder) == 2  # never mixed with what is there
    assert command("import-metaschedule", tmp_path, tmp_path / "log.jsonl") == 2
    assert command("export-metaschedule", tmp_path / "none.jsonl", tmp_path / "db") == 2
    (tmp_path / "file").write_text("")
    assert command("export-metaschedule", log, tmp_path / "file") == 2
