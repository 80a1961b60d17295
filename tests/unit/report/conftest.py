"""Gives the sample results to tests as fixtures."""

from __future__ import annotations

import pytest
import sample_results


@pytest.fixture
def samples():
    return sample_results
