"""Why a process may not be read: every cause has its reason and its mend."""

from __future__ import annotations

import pytest

from perfguard.samplers.ptrace import is_denial, why_denied

NO_CAPS, ALL_CAPS = "0000000000000000", "000001ffffffffff"


def fake_proc(path, *, scope: str | None, caps: str, options: str = "rw"):
    (path / "sys/kernel/yama").mkdir(parents=True)
    if scope is not None:
        (path / "sys/kernel/yama/ptrace_scope").write_text(scope + "\n")
    (path / "self").mkdir()
    (path / "self/status").write_text(f"Name:\tx\nCapPrm:\t{NO_CAPS}\nCapEff:\t{caps}\nCapBnd:\t{ALL_CAPS}\n")
    (path / "mounts").write_text(f"rootfs / rootfs rw 0 0\nproc /proc proc {options} 0 0\n")
    return path


@pytest.mark.parametrize(
    ("scope", "caps", "options", "said"),
    [
        ("3", ALL_CAPS, "rw", ("ptrace_scope is 3", "boot with")),
        ("1", NO_CAPS, "rw", ("ptrace_scope is 1 and CAP_SYS_PTRACE is missing", "sysctl kernel.yama.ptrace_scope=0")),
        ("2", NO_CAPS, "rw", ("ptrace_scope is 2", "--cap-add=SYS_PTRACE")),
        ("0", NO_CAPS, "rw", ("another user", "--cap-add=SYS_PTRACE")),
        (None, NO_CAPS, "rw", ("another user", "--cap-add=SYS_PTRACE")),
        (None, NO_CAPS, "rw,hidepid=2", ("hidepid=2", "remount")),
        (None, NO_CAPS, "rw,hidepid=invisible", ("hidepid=invisible", "remount")),
        (None, NO_CAPS, "rw,hidepid=0", ("another user", "--cap-add=SYS_PTRACE")),
        ("1", ALL_CAPS, "rw", ("although CAP_SYS_PTRACE is held", "seccomp")),
    ],
)
def test_every_cause_is_named_with_its_mend(tmp_path, scope, caps, options, said):
    reason, mend = why_denied(fake_proc(tmp_path, scope=scope, caps=caps, options=options))
    assert said[0] in reason
    assert said[1] in mend
    assert "profiling.enabled = false" in mend


def test_a_proc_that_tells_nothing_still_gives_a_reason(tmp_path):
    assert "another user" in why_denied(tmp_path)[0]


@pytest.mark.parametrize(
    ("said", "denied"),
    [
        ("Permission Denied: Try running again with elevated permissions", True),
        ("Error: Failed to open\n\nCaused by:\n    0: Operation not permitted (os error 1)", True),
        ("Please make sure you started your container with the SYS_PTRACE capability.", True),
        ("Error: Failed to get process executable name. Check that the process is running.", False),
        ("", False),
    ],
)
def test_a_denial_is_told_from_other_failures(said, denied):
    assert is_denial(said) is denied
