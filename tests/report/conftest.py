"""A store and grid that the tests of the report fill by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade_grids import Builder


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "outputs")
