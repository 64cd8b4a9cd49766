from __future__ import annotations

import re

import pytest

from autotune.errors import UnsupportedTarget
from autotune.hw_profiles import detect_cpu, load_profiles, tvm_target
from autotune.hw_profiles.isa import (
    ARM_FEATURES,
    ARM_MODELS,
    X86_FEATURES,
    X86_MODELS,
    x86_model,
)

MACHINES = ("genoa-vm", "sapphire-odd-model", "avx2-laptop", "neoverse-n1", "no-caches")
VECTOR = 1024


def _llvm_features(target: dict) -> set[str]:
    import tvm
    from tvm.target import codegen

    return {str(name) for name in codegen.llvm_get_cpu_features(tvm.target.Target(target))}


def _asm(target: dict) -> str:
    import tvm
    from tvm import te

    a = te.placeholder((VECTOR,), "float32", name="a")
    b = te.placeholder((VECTOR,), "float32", name="b")
    c = te.compute((VECTOR,), lambda i: a[i] * b[i] + b[i], name="c")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b, c]))
    (loop,) = schedule.get_loops("c")
    _, inner = schedule.split(loop, [None, 16])
    schedule.vectorize(inner)
    module = tvm.compile(schedule.mod, target=tvm.target.Target(target))
    return module.mod.inspect_source("asm")


def test_genoa_target_is_the_model_without_half_width_vectors(machine):
    assert tvm_target(detect_cpu(machine("genoa-vm")), 2) == {
        "kind": "llvm",
        "num-cores": 2,
        "mtriple": "x86_64-unknown-linux-gnu",
        "mcpu": "znver4",
        "mattr": ["-prefer-256-bit"],
    }


def test_hidden_minor_flags_are_switched_off_and_extra_ones_on(machine):
    root = machine("sapphire-odd-model")
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(re.sub(r" amx_\w+| sha_ni", "", cpuinfo.read_text()))
    target = tvm_target(detect_cpu(root), 1)
    assert target["mcpu"] == "sapphirerapids"
    assert target["mattr"] == ["-amx-bf16", "-amx-int8", "-amx-tile", "-sha", "-prefer-256-bit"]
    cpuinfo.write_text(cpuinfo.read_text().replace(" avx512_fp16", ""))
    target = tvm_target(detect_cpu(root), 1)
    assert target["mcpu"] == "icelake-server"
    assert target["mattr"] == ["+avx512bf16", "+avxvnni", "-sha", "-prefer-256-bit"]


def test_other_vendors_get_a_level_and_the_rest_of_their_flags(machine):
    target = tvm_target(detect_cpu(machine("no-caches")), 1)
    assert target["mcpu"] == "x86-64-v2"
    assert {"+avx", "+bmi2", "+lzcnt"} <= set(target["mattr"])


@pytest.mark.parametrize("name", MACHINES)
def test_no_feature_is_on_that_the_kernel_does_not_report(machine, name):
    cpu = detect_cpu(machine(name))
    names = X86_FEATURES if cpu.isa == "x86_64" else ARM_FEATURES
    on = _llvm_features(tvm_target(cpu, 1)) & set(names.values())
    assert on == {names[flag] for flag in cpu.features}


@pytest.mark.parametrize("model", X86_MODELS, ids=lambda model: model.mcpu)
def test_table_of_x86_models_says_what_llvm_implies(model):
    target = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": model.mcpu}
    implied = {X86_FEATURES[flag] for flag in model.implied}
    assert implied == _llvm_features(target) & set(X86_FEATURES.values())


@pytest.mark.parametrize("model", ARM_MODELS.values(), ids=lambda model: model.mcpu)
def test_table_of_arm_models_says_what_llvm_implies(model):
    target = {"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu", "mcpu": model.mcpu}
    implied = {ARM_FEATURES[flag] for flag in model.implied}
    assert implied == _llvm_features(target) & set(ARM_FEATURES.values())


@pytest.mark.parametrize("model", X86_MODELS, ids=lambda model: model.mcpu)
def test_a_machine_with_just_the_flags_of_a_model_gets_that_model(model):
    assert x86_model(model.vendor, model.requires | model.optional) is model


@pytest.mark.parametrize("name", ("genoa-vm", "sapphire-odd-model"))
def test_avx512_targets_compile_to_full_width_vectors(machine, name):
    asm = _asm(tvm_target(detect_cpu(machine(name)), 1))
    assert re.search(r"vfmadd\w+ps.*%zmm", asm)


def test_avx2_target_compiles_to_ymm(machine):
    asm = _asm(tvm_target(detect_cpu(machine("avx2-laptop")), 1))
    assert re.search(r"vfmadd\w+ps.*%ymm", asm)
    assert "%zmm" not in asm


def test_aarch64_target_compiles_to_neon(machine):
    assert re.search(r"fmla\s+v\d+\.4s", _asm(tvm_target(detect_cpu(machine("neoverse-n1")), 1)))


def test_apple_and_unknown_instruction_sets_do_not_crash(tmp_path, monkeypatch):
    for name, expected in (("arm64", "apple-m1"), ("riscv64", None)):
        monkeypatch.setattr("platform.machine", lambda name=name: name)
        target = tvm_target(detect_cpu(tmp_path), 2)
        assert target.get("mcpu") == expected
        assert target["num-cores"] == 2


def test_gpus_and_zero_threads_are_refused(machine):
    with pytest.raises(UnsupportedTarget, match="neither a CPU nor a CUDA device"):
        tvm_target(load_profiles()["mi50"], 1)
    with pytest.raises(UnsupportedTarget, match="at least 1"):
        tvm_target(detect_cpu(machine("genoa-vm")), 0)
