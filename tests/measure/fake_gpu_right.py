"""Builds a right kernel for every config: ``python -m fake_gpu_right``."""

from __future__ import annotations

from typing import Any

from fake_gpu_templates import FakeBuilder

from autotune.measure.protocol import Channel


class RightBuilder(FakeBuilder):
    def build(self, template: str, config: dict[str, Any], name: str) -> dict[str, Any]:
        return super().build(template, {"behaviour": "right"}, name)


if __name__ == "__main__":
    channel = Channel()
    builder = RightBuilder(channel)
    channel.serve({"setup": builder.setup, "build": builder.build})
