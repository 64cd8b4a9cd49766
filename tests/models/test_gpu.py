"""Models for a GPU: what they are compiled to without one, what they compute, and what is said."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from gpu_on_cpu import on_cpu, serial
from model_samples import SMALL, Function
from tvm import relax, tirx

import autotune
from autotune.deploy.files import c_compiler
from autotune.deploy.gpu import runs_on
from autotune.errors import AutotuneError, NotApplicable, UnsupportedTarget
from autotune.hw_profiles import cuda_devices, resolve_target, tvm_target
from autotune.identity import target_json, target_key
from autotune.kernels.base import get_template
from autotune.kernels.cuda.compile import CudaCompileError, find_compiler
from autotune.kernels.cuda.source import split_and_lower
from autotune.log import Tier, TuningLog, run_header, trial_record
from autotune.models import deploy, device_code
from autotune.models.choose import Chooser
from autotune.models.defaults_cuda import ONE_THREAD, by_one_thread, is_bound, schedule_for_gpu
from autotune.models.device_code import compile_functions, module_bytes
from autotune.models.importing import import_torch
from autotune.models.pipeline import build, simplify
from autotune.trial import Result
from autotune.workload import Gemm

__all__ = ["on_cpu"]
H200 = resolve_target("cuda:h200")
TARGET = tvm.target.Target(tvm_target(H200, 1))
needs_compiler = pytest.mark.skipif(
    find_compiler() is None, reason="neither nvcc nor NVRTC is here"
)
without_gpu = pytest.mark.skipif(bool(cuda_devices()), reason="there is a CUDA device")


def built(model: Any, *inputs: Any, gpu: str = "h200", records: Any = ()) -> Any:
    if not isinstance(model, torch.nn.Module):
        model = Function(model)
    profile = resolve_target(f"cuda:{gpu}")
    module = simplify(import_torch(model.eval(), inputs))
    return build(module, Chooser(records, profile, 1), profile, 1)


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert_layer", "resnet_downsampling"])
def test_what_is_scheduled_for_a_gpu_computes_what_torch_computes(name: str, on_cpu: None) -> None:
    model, inputs = SMALL[name]()
    machine = relax.VirtualMachine(built(model, *inputs).code.executable, tvm.cpu())
    result = machine["main"](*inputs)
    with torch.no_grad():
        expected = model(*inputs)
    assert float((result - expected).abs().max() / expected.abs().max()) < 5e-6


def test_constants_are_turned_where_a_gpu_multiplies_one_layout_only(on_cpu: None) -> None:
    weight = torch.randint(-9, 9, (32, 48), dtype=torch.int8)
    x = torch.randint(-9, 9, (32, 32), dtype=torch.int8)

    class Product(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Buffer(weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch._int_mm(x, self.weight)

    done = built(Product(), x)
    (choice,) = done.applied.kernels.values()
    assert choice.workload.layout == "nt" and choice.template.name in ("wgmma", "mma_sync")
    machine = relax.VirtualMachine(done.code.executable, tvm.cpu())
    assert torch.equal(machine["main"](x), torch._int_mm(x, weight))


def test_copies_and_scratch_memory_are_tensors_of_the_model(on_cpu: None) -> None:
    """B is no constant, so that it has to be turned in each call."""
    a = torch.randint(-9, 9, (16, 8192), dtype=torch.int8)
    b = torch.randint(-9, 9, (8192, 48), dtype=torch.int8)
    done = built(lambda a, b: torch._int_mm(a, b), a, b)
    ((name, choice),) = done.applied.kernels.items()
    assert choice.workload.layout == "nn" and choice.config["split_k"] > 1
    function = done.applied.module[name]
    assert [p.name for p in function.params] == ["a", "b", "b_turned", "counters", "c", "partials"]
    machine = relax.VirtualMachine(done.code.executable, tvm.cpu())
    for _ in range(2):
        assert torch.equal(machine["main"](a, b), torch._int_mm(a, b))


@needs_compiler
def test_copies_and_scratch_memory_are_compiled() -> None:
    a = torch.randint(-9, 9, (16, 8192), dtype=torch.int8)
    b = torch.randint(-9, 9, (8192, 48), dtype=torch.int8)
    done = built(lambda a, b: torch._int_mm(a, b), a, b)
    (name,) = done.applied.kernels
    resources = {name for code in done.code.device for name in code.resources}
    assert {f"{name}_kernel", f"{name}_turn_b_kernel"} <= resources


def test_a_residual_is_added_by_the_kernel_of_the_product(on_cpu: None) -> None:
    x, w, residual = torch.randn(9, 16), torch.randn(16, 8), torch.randn(9, 8)
    done = built(lambda x, w, r: torch.matmul(x, w) + r, x, w, residual)
    (choice,) = done.applied.kernels.values()
    assert choice.workload.epilogue == "residual" and not done.rules
    machine = relax.VirtualMachine(done.code.executable, tvm.cpu())
    assert torch.allclose(machine["main"](x, w, residual), x @ w + residual, atol=1e-5)


def test_an_epilogue_that_no_template_has_is_left_to_another_function(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(name: str, workload: Gemm, profile: Any) -> None:
        if workload.has_residual:
            raise NotApplicable("as asked")

    monkeypatch.setattr("autotune.kernels.cuda.simt.check_simt", check)
    x, w, residual = torch.randn(9, 16), torch.randn(16, 8), torch.randn(9, 8)
    done = built(lambda x, w, r: torch.matmul(x, w) + r, x, w, residual)
    (choice,) = done.applied.kernels.values()
    assert choice.workload.epilogue == "none" and not done.applied.missed
    assert list(done.rules.values()) == ["elementwise"]
    machine = relax.VirtualMachine(done.code.executable, tvm.cpu())
    assert torch.allclose(machine["main"](x, w, residual), x @ w + residual, atol=1e-5)


def plain_sum(size: int = 24) -> Any:
    """A function of blocks that no rule takes: each element needs the one before it."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def running(a: T.Buffer((size,), "float32"), b: T.Buffer((size,), "float32")) -> None:
        T.func_attr({"global_symbol": "running"})
        for i in range(size):
            with T.sblock("step"):
                T.reads(a[0:size], b[0:size])
                T.writes(b[0:size])
                b[i] = a[i] + T.if_then_else(i > 0, b[T.max(i - 1, 0)], T.float32(0))

    return running


def test_what_no_rule_takes_is_run_by_one_thread() -> None:
    function = by_one_thread(plain_sum())
    assert is_bound(function) and not is_bound(plain_sum())
    lowered = split_and_lower(tvm.IRModule({"running": function}), tvm_target(H200, 1), "s_tir")
    assert "running_kernel" in lowered.text
    run = tvm.compile(tvm.IRModule({"running": serial(function)}), "llvm")["running"]
    a = np.random.default_rng(0).uniform(-1, 1, 24).astype("float32")
    b = tvm.runtime.tensor(np.full(24, np.nan, "float32"))
    run(tvm.runtime.tensor(a), b)
    assert np.allclose(b.numpy(), np.cumsum(a), atol=1e-5)


def test_a_function_whose_rules_all_fail_is_not_left_unbound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(function: Any, target: Any) -> Any:
        raise ValueError("as asked")

    monkeypatch.setattr("autotune.models.defaults_cuda._rules", lambda: {"fails": fails})
    rule, function = schedule_for_gpu(plain_sum(), TARGET)
    assert rule == ONE_THREAD and is_bound(function)


def test_a_store_outside_of_threads_is_seen() -> None:
    bound = by_one_thread(plain_sum())
    store = plain_sum().body.block.body
    root = bound.body.block
    both = tirx.SeqStmt([root.body, store])
    block = tvm.s_tir.SBlock([], [], [], "root", both)
    assert not is_bound(bound.with_body(tvm.s_tir.SBlockRealize([], True, block)))


# -- machine code ---------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("gpu", ["h200", "a100"])
@pytest.mark.parametrize("name", ["mlp", "bert_layer", "resnet_bottleneck"])
def test_models_are_compiled_to_machine_code_without_a_gpu(name: str, gpu: str) -> None:
    model, inputs = SMALL[name]()
    done = built(model, *inputs, gpu=gpu)
    kernels = done.applied.kernels
    resources = {name: r for code in done.code.device for name, r in code.resources.items()}
    assert all(code.image.startswith(b"\x7fELF") for code in done.code.device)
    assert {f"{name}_kernel" for name in kernels} <= resources.keys()
    for name in kernels:
        assert resources[f"{name}_kernel"].spill_store_bytes == 0
        assert 0 < done.code.predicted[name] < 1
    for name in done.rules:  # a function can be several kernels, but not none
        assert any(re.fullmatch(rf"{name}_kernel(_\d+)?", kernel) for kernel in resources)


@needs_compiler
def test_narrow_types_take_the_tensor_cores() -> None:
    layer = torch.nn.Linear(64, 96).half()
    x = torch.randn(16, 64).half()
    templates = {}
    for gpu in ("h200", "a100"):
        (choice,) = built(layer, x, gpu=gpu).applied.kernels.values()
        templates[gpu] = choice.template.name
    assert templates == {"h200": "wgmma", "a100": "mma_sync"}


def test_modules_are_written_as_tvm_writes_them() -> None:
    from tvm.runtime import _ffi_api
    from tvm.tirx.build import codegen_build

    workload = Gemm(64, 64, 64, dtype="float16", layout="nt")
    template = get_template("wgmma")
    config = template.space(workload, H200, 1).defaults[0]
    main = template.build(workload, config)["main"].with_attr("global_symbol", "main")
    m = tirx.Var("m", "int64")
    x = tvm.te.placeholder((m,), "float32")
    other = tvm.te.create_prim_func([x, tvm.te.compute((m,), lambda i: x[i] + 1)])
    _, other = schedule_for_gpu(other.with_attr("global_symbol", "main"), TARGET)
    for function, pipeline in ((main, "tirx"), (other, "s_tir")):
        module = tvm.IRModule({"main": function})
        lowered = split_and_lower(module, tvm_target(H200, 1), pipeline)
        (kernel,) = lowered.kernels.functions.values()
        theirs = codegen_build(lowered.kernels, kernel.attrs["target"])
        host = device_code._host_module([lowered])
        host.import_module(theirs)
        text = _ffi_api.ModulePackImportsToC(host, False, "")
        digits = re.findall(r"0x([0-9a-fA-F]{2})", text[text.index("__tvm_ffi__library_bin") :])
        packed = bytes(int(pair, 16) for pair in digits)
        source = theirs.inspect_source().encode()
        assert module_bytes("cuda", device_code._infos(lowered), source) in packed


class Rejecting:
    """A compiler that does not take kernels with a certain word in them."""

    description = "fake 1.0"

    def __init__(self, word: str) -> None:
        self.word = word

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        if self.word in source:
            raise CudaCompileError("rejected", "as asked")
        names = re.findall(r"(\w+_kernel\w*)\([^)]*\) \{", source)
        said = "ptxas info : Compiling entry function '{}' for 'sm_90a'\nUsed 8 registers\n"
        return b"\x7fELF", "".join(said.format(name) for name in names)


def test_a_kernel_that_does_not_compile_is_named() -> None:
    def scheduled(name: str) -> Any:
        x = tvm.te.placeholder((64,), "float32", name="x")
        doubled = tvm.te.compute((64,), lambda i: x[i] * 2.0, name="y")
        function = tvm.te.create_prim_func([x, doubled]).with_attr("global_symbol", name)
        return schedule_for_gpu(function, TARGET)[1]

    functions = {name: scheduled(name) for name in ("first", "second", "third")}
    with pytest.raises(AutotuneError, match="kernel second does not compile: rejected: as asked"):
        compile_functions(functions, H200, Rejecting("second_kernel"))
    _, (code,) = compile_functions(functions, H200, Rejecting("fourth"))
    assert sorted(code.resources) == ["first_kernel", "second_kernel", "third_kernel"]


# -- use ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled() -> tuple[Any, Any]:
    if find_compiler() is None:
        pytest.skip("neither nvcc nor NVRTC is here")
    model, inputs = SMALL["bert_layer"]()
    return autotune.compile(model, inputs, target="cuda:h200"), inputs


@without_gpu
def test_calling_or_loading_one_without_a_gpu_says_so(compiled: Any, tmp_path: Path) -> None:
    model, inputs = compiled
    with pytest.raises(UnsupportedTarget, match=r"H200 SXM \(sm_90a\) and runs on a GPU only: no"):
        model(*inputs)
    with pytest.raises(AutotuneError, match="only models for a CPU are timed"):
        model.profile()
    model.export(tmp_path / "model.so")
    with pytest.raises(UnsupportedTarget, match="runs on a GPU only: no CUDA device found"):
        autotune.load_model(tmp_path / "model.so")


def test_an_exported_model_holds_its_machine_code(compiled: Any, tmp_path: Path) -> None:
    model, _ = compiled
    path = tmp_path / "model.so"
    model.export(path)
    deploy._load_runtime()
    description = deploy._read_description(path, str(path))
    assert description["gpu"] == {"name": H200.name, "arch": "sm_90a"}
    wanted = [code.to_bytes() for code in model._code.device]
    assert deploy._device_code(str(path), description["device_code"]) == wanted
    assert not any(b"__global__" in module for module in wanted)


def test_machine_code_reaches_the_functions_that_launch_it(
    compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With LLVM's modules in the place of CUDA's, which no driver is needed for."""
    import tvm_ffi

    from autotune.deploy import gpu

    def fake(data: bytes) -> Any:
        x = tvm.te.placeholder((4,), "float32")
        function = tvm.te.create_prim_func([x, tvm.te.compute((4,), lambda i: x[i] + 1)])
        function = function.with_attr("global_symbol", data.decode())
        return tvm.compile(tvm.IRModule({data.decode(): function}), "llvm").mod

    model, _ = compiled
    model.export(tmp_path / "model.so")
    monkeypatch.setattr(tvm_ffi, "get_global_func", lambda name: fake)
    loaded = tvm_ffi.load_module(str(tmp_path / "model.so"))
    gpu.import_code(loaded, [b"one", b"two"])
    (host,) = loaded.imports
    assert host.kind == "library" and host.get_function("softmax") is not None
    assert [module.implements_function("two") for module in host.imports] == [False, True]
    with pytest.raises(AutotuneError, match="no functions that launch kernels"):
        gpu.import_code(_Empty(), [b"one"])


#: Loads what an exported model holds into TVM's own runtime for CUDA: program DRIVER MODEL.
INTO_TVMS_RUNTIME = """
import ctypes, json, sys
from pathlib import Path

ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
from autotune.deploy import gpu
from autotune.models import deploy

deploy._load_runtime()
gpu.load_cuda_runtime()
import tvm_ffi

file = Path(sys.argv[2])
description = deploy._read_description(file, str(file))
module = tvm_ffi.load_module(str(file), keep_module_alive=True)
gpu.import_code(module, deploy._device_code(str(file), description["device_code"]))
known = [
    [name for name in description["coverage"]["resources"] if part.implements_function(name)]
    for part in module.imports[0].imports
]
loaded = open("/proc/self/maps").read()
print(json.dumps({"kernels": known, "compiler": "libtvm_compiler" in loaded}))
"""


@without_gpu
def test_tvms_runtime_takes_the_machine_code(compiled: Any, tmp_path: Path) -> None:
    """With a driver that has the names it links to and fails whatever it is asked."""
    try:
        ctypes.CDLL("libcudart.so.13")
    except OSError:
        pytest.skip("CUDA's runtime library is not here")
    names = (
        "DeviceGetName",
        "FuncSetAttribute",
        "GetErrorName",
        "GetErrorString",
        "LaunchKernelEx",
    )
    names += ("ModuleGetFunction", "ModuleLoadData", "ModuleUnload", "TensorMapEncodeTiled")
    source, driver = tmp_path / "driver.c", tmp_path / "libcuda.so.1"
    source.write_text("".join(f"int cu{name}(void) {{ return 100; }}\n" for name in names))
    cc = c_compiler()
    assert cc is not None
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(driver), str(source)]
    subprocess.run([cc, *options], check=True)
    model, _ = compiled
    model.export(tmp_path / "model.so")
    done = subprocess.run(
        [sys.executable, "-c", INTO_TVMS_RUNTIME, str(driver), str(tmp_path / "model.so")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["compiler"] is False
    assert said["kernels"] == [sorted(code.resources) for code in model._code.device]


class _Empty:
    kind, imports = "const_loader", ()


def test_inputs_elsewhere_are_refused_in_words() -> None:
    from autotune.models.function import ModelFunction

    model = ModelFunction(lambda: pytest.fail("it ran"), [((2,), "float32")], "cuda:1")
    model._main = model._start
    with pytest.raises(AutotuneError, match=r"input 0 is on cpu, .* runs on cuda:1; .*x\.to"):
        model(torch.zeros(2))
    elsewhere = torch.zeros(2, device="meta")
    with pytest.raises(AutotuneError, match="input 0 is on meta"):
        model(elsewhere)


@pytest.mark.parametrize(
    ("arch", "here", "works"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_80", "sm_90", False),
        ("sm_90a", "sm_90", True),
        ("sm_90a", "sm_100", False),
        ("sm_100", "sm_103", True),
    ],
)
def test_machine_code_runs_on_its_own_generation(arch: str, here: str, works: bool) -> None:
    assert runs_on(arch, here) is works


@needs_compiler
def test_the_log_of_a_gpu_is_used_and_that_of_others_ignored(tmp_path: Path) -> None:
    model, inputs = SMALL["mlp"]()
    wanted = Gemm(7, 61, 33, layout="nt", epilogue="bias_gelu")
    template = get_template("simt")
    config = template.space(wanted, H200, 1).defaults[0].replace(stages=1)
    fields = {
        "target": target_json(H200, 1),
        "target_key": target_key(H200, 1),
        "template": {"name": "simt", "version": template.version},
    }
    head = run_header(wanted, run="run-a", **fields)
    log = TuningLog(tmp_path / "log.jsonl")
    log.append([trial_record(head, 0, config.to_json(), Result((2e-6,)), batch=0, asked=1,
                             ask=0, tell=0)])  # fmt: skip
    for target, tier in (("cuda:h200", Tier.EXACT), ("cuda:a100", Tier.DEFAULT)):
        done = autotune.compile(model, inputs, target=target, log=log.path)
        row = {row.workload: row for row in done.coverage.rows}[wanted.key]
        assert row.tier == tier.value
        assert (row.seconds == 2e-6 and row.config["stages"] == 1) == (tier is Tier.EXACT)
        assert row.predicted != row.seconds


# -- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_devices(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", SMALL)
def test_a_model_computes_on_a_gpu_what_torch_computes(name: str, tmp_path: Path) -> None:
    model, inputs = SMALL[name]()
    model, inputs = model.cuda(), [x.cuda() for x in inputs]
    ours = autotune.compile(model, inputs, target="cuda")
    with torch.no_grad():
        expected = model(*inputs).cpu()
    ours.export(tmp_path / "model.so")
    for run in (ours, autotune.load_model(tmp_path / "model.so")):
        result = run(*inputs)
        assert result.is_cuda
        difference = (result.cpu() - expected).abs().max() / expected.abs().max()
        assert float(difference) < 1e-4
        with pytest.raises(AutotuneError, match="input 0 is on cpu"):
            run(*[x.cpu() for x in inputs])


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_devices(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_on_a_gpu(dtype: torch.dtype) -> None:
    model, inputs = SMALL["bert_layer"]()
    model, inputs = model.to("cuda", dtype), [x.to("cuda", dtype) for x in inputs]
    with torch.no_grad():
        expected = model(*inputs).float()
    result = autotune.compile(model, inputs, target="cuda")(*inputs).float()
    assert float((result - expected).abs().max() / expected.abs().max()) < 3e-2
