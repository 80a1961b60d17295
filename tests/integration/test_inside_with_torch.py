"""The unit tests of what runs inside a server, with the server's own Python: that one has torch, the tests' has not."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
TESTS = REPOSITORY / "tests" / "unit" / "inside"
# pytest and what it imports; the environment's Python is the one that runs these tests, so they fit.
RUNNER = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli")


def test_they_pass_and_none_is_skipped(managed_environment, tmp_path):
    runner = tmp_path / "runner"
    runner.mkdir()
    for name in RUNNER:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin)
            place = place.parent if spec.submodule_search_locations else place
            (runner / place.name).symlink_to(place)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    ran = subprocess.run(
        [
            str(managed_environment.python),
            *("-m", "pytest", "-q", "-rs", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider"),
            *(
                str(TESTS / f"test_inside_{name}.py")
                for name in ("codec", "groups", "links", "plain_kernels", "server", "shared")
            ),
        ],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{runner}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
