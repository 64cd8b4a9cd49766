"""A model that the command line names."""

from __future__ import annotations

from typing import Any

import torch


def small() -> Any:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 24), torch.nn.Softmax(-1)
    )
    return layers.eval(), (torch.randn(9, 24),)


def without_products() -> Any:
    return torch.nn.Softmax(-1).eval(), (torch.randn(9, 24),)


def wrong() -> Any:
    return "not a model"


def training() -> Any:
    return torch.nn.Linear(3, 4), (torch.randn(2, 3),)
