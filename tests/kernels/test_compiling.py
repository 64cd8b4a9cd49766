"""What our compiling of CPU kernels changes of TVM's, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.hw_profiles import HardwareProfile, tvm_target
from autotune.kernels.base import get_template
from autotune.kernels.compiling import compile_module
from autotune.workload import Gemm


@pytest.mark.parametrize(
    ("template", "dtype", "looks"), [("cpu_tile", "float32", True), ("cpu_dot", "int8", False)]
)
def test_the_context_around_it_holds_but_for_common_subexpressions(
    template: str, dtype: str, looks: bool, host: HardwareProfile
) -> None:
    import tvm

    @tvm.ir.instrument.pass_instrument
    class Names:
        def __init__(self) -> None:
            self.seen: set[str] = set()

        def run_before_pass(self, _module: Any, info: Any) -> None:
            self.seen.add(str(info.name))

    workload = Gemm(24, 32, 16, dtype=dtype)
    config = get_template(template).space(workload, host, 1).defaults[0]
    module = get_template(template).build(workload, config)
    target = tvm.target.Target(tvm_target(host, 1))

    def compiled(config: dict[str, Any]) -> tuple[set[str], int]:
        names = Names()
        with tvm.transform.PassContext(instruments=[names], config=config):
            library = compile_module(module, target)
            assert dict(tvm.transform.PassContext.current().config) == config
        return names.seen, len(library.mod.inspect_source("ll"))

    seen, size = compiled({})
    assert "tirx.LowerIntrin" in seen and ("tirx.CommonSubexprElim" in seen) == looks
    # Code that checks arguments is left out, as the context says.
    assert compiled({"tirx.disable_assert": True})[1] < size
