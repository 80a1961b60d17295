"""The store keeps whole trials, and says clearly what is wrong with a folder."""

import signal
import subprocess
import sys
import textwrap

import pytest

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.trial import Trial, Untestable
from perfguard.store import RunStore


def trial(number, reason="did not start"):
    return Trial(
        number=number,
        block=1,
        start=1,
        revision="a" * 40,
        strategy="as-committed",
        started_at="2026-01-01T00:00:00+00:00",
        wall_s=1.5,
        outcome=Untestable(reason=reason, log="last line\n"),
    )


def test_trials_and_settings_come_back(tmp_path, completed_trial):
    with RunStore.create(tmp_path / "run", {"verb": "bisect", "seed": 3}) as store:
        store.add_trial(trial(1, "odd \u202e name </script>"))
        store.add_trial(completed_trial)
    with RunStore.open(tmp_path / "run") as store:
        assert store.settings() == {"verb": "bisect", "seed": 3}
        assert store.trials() == (trial(1, "odd \u202e name </script>"), completed_trial)


def test_artifacts_are_kept_once_and_checked(tmp_path):
    with RunStore.create(tmp_path, {}) as store:
        key = store.put_artifact(b"main (a.py:1) 3\n")
        assert store.put_artifact(b"main (a.py:1) 3\n") == key
        assert store.get_artifact(key) == b"main (a.py:1) 3\n"
        assert len(list(tmp_path.glob("artifacts/*/*.gz"))) == 1
        (file,) = tmp_path.glob("artifacts/*/*.gz")
        file.write_bytes(file.read_bytes()[:-6])
        with pytest.raises(PerfguardError, match="cannot be read"):
            store.get_artifact(key)
        with pytest.raises(PerfguardError, match="cannot be read"):
            store.get_artifact("0" * 64)


def test_a_folder_is_used_by_one_perfguard_at_a_time(tmp_path):
    with RunStore.create(tmp_path, {}), pytest.raises(UsageError, match="another perfguard"):
        RunStore.open(tmp_path)
    with RunStore.open(tmp_path) as store:
        assert store.trials() == ()


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        RunStore.open(tmp_path)
    RunStore.create(tmp_path, {}).close()
    with pytest.raises(UsageError, match="already holds a run"):
        RunStore.create(tmp_path, {})
    (tmp_path / "run.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(PerfguardError, match="not a database"):
        RunStore.open(tmp_path)
    with pytest.raises(PerfguardError, match="cannot write"):
        RunStore.create(tmp_path / "run.lock" / "below-a-file", {})


def test_another_version_is_refused(tmp_path):
    store = RunStore.create(tmp_path, {})
    with store._connection:
        store._connection.execute("UPDATE meta SET value = '99' WHERE key = 'store_version'")
    store.close()
    with pytest.raises(UsageError, match="store version 99"):
        RunStore.open(tmp_path)


def test_the_same_trial_number_is_not_written_twice(tmp_path):
    with RunStore.create(tmp_path, {}) as store:
        store.add_trial(trial(1))
        with pytest.raises(PerfguardError, match="UNIQUE"):
            store.add_trial(trial(1))
        assert len(store.trials()) == 1


def test_kill_nine_leaves_whole_trials(tmp_path):
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from perfguard.model.trial import Trial, Untestable
        from perfguard.store import RunStore
        store = RunStore.create(Path(sys.argv[1]), {"seed": 1})
        for number in range(1, 100000):
            store.put_artifact(str(number).encode() * 1000)
            store.add_trial(Trial(number=number, block=1, start=1, revision="a", strategy="as-committed", started_at="",
                wall_s=1.0, outcome=Untestable(reason="x" * 5000, log="")))
            print(number, flush=True)
    """)
    for attempt, lines in enumerate((1, 7, 23)):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
        seen = [int(process.stdout.readline()) for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with RunStore.open(folder) as store:
            numbers = [kept.number for kept in store.trials()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= seen[-1]
