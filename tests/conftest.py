"""Fixtures that several rooms' tests share."""

import pytest
from made_trials import make_samples, make_trial


@pytest.fixture
def completed_trial():
    return make_trial(2, 1, "b" * 40, make_samples(140.0))
