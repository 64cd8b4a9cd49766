from __future__ import annotations

import pytest
from compare_samples import Breaks, Walk

from autotune.search import SEARCHERS


@pytest.fixture
def odd_searchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the made-up search methods for one test."""
    monkeypatch.setitem(SEARCHERS, "breaks", Breaks)
    monkeypatch.setitem(SEARCHERS, "walk", Walk)
