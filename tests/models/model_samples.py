"""Small versions of the sample models, and what the tests of models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autotune.hw_profiles import HardwareProfile, resolve_target
from autotune.identity import target_json, target_key
from autotune.kernels.base import get_template
from autotune.log import run_header, trial_record
from autotune.models import samples
from autotune.models.importing import import_torch
from autotune.models.pipeline import simplify
from autotune.models.sites import Finder, Site
from autotune.trial import Result
from autotune.workload import Gemm

#: Odd and prime extents where the models allow them.
SMALL: dict[str, Callable[[], samples.Sample]] = {
    "mlp": lambda: samples.mlp(7, 33, 61),
    "bert_layer": lambda: samples.bert_layer(13, 48, 3, 97),
    "vit_block": lambda: samples.vit_block(24, 8, 48, 3, 65),
    "llama_block": lambda: samples.llama_block(11, 64, 4, 2, 75),
    "resnet_bottleneck": lambda: samples.resnet_bottleneck(9, 20, 5, 1),
    "resnet_downsampling": lambda: samples.resnet_bottleneck(10, 16, 6, 2),
    "resnet_batch": lambda: samples.resnet_bottleneck(9, 20, 5, 2, batch=2),
}


class Function(torch.nn.Module):
    """A model without weights."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def sites_of(model: Any, *inputs: Any, **options: Any) -> list[Site]:
    """The products that are found in a model."""
    if not isinstance(model, torch.nn.Module):
        model = Function(model)
    module = simplify(import_torch(model.eval(), inputs, **options))
    return Finder(module["main"]).sites()


def tuned(
    workload: Gemm,
    threads: int = 1,
    made_by: str = "cpu_tile",
    profile: HardwareProfile | None = None,
    **changes: Any,
) -> Any:
    """A record that says that the last of a space's analytic configs is the best on a machine.

    ``changes`` are fields of the run's header.
    """
    profile = profile or resolve_target("cpu")
    made = get_template(made_by)
    config = made.space(workload, profile, threads).defaults[-1]
    fields = {
        "target": target_json(profile, threads),
        "target_key": target_key(profile, threads),
        "template": {"name": made.name, "version": made.version},
        **changes,
    }
    head = run_header(workload, run="run-a", **fields)
    result = Result((1e-3,))
    return trial_record(head, 0, config.to_json(), result, batch=0, asked=1, ask=0, tell=0)
