"""Whether this machine lets one process read another, and what mends it where it does not."""

from __future__ import annotations

from pathlib import Path

_DENIALS = ("permission denied", "operation not permitted", "sys_ptrace")
_CAP_SYS_PTRACE = 19
_NO_ATTACH_AT_ALL = 3
_WITHOUT = ", or set profiling.enabled = false in the scenario"


def is_denial(said: str) -> bool:
    """Whether what py-spy printed means that the system forbade it to read the process."""
    return any(word in said.lower() for word in _DENIALS)


def why_denied(proc_root: Path = Path("/proc"), *, instead: str = _WITHOUT) -> tuple[str, str]:
    """Say why reading other processes is forbidden here, and what mends it: (reason, mend).

    `instead` ends the mend: how to do without.

    Source: ptrace(2), "Ptrace access mode checking" and "/proc/sys/kernel/yama/ptrace_scope"; proc(5), hidepid.
    """
    scope = _yama_scope(proc_root)
    if scope == _NO_ATTACH_AT_ALL:
        return (
            "kernel.yama.ptrace_scope is 3, which forbids it to everyone until the next boot",
            f"boot with kernel.yama.ptrace_scope=0{instead}",
        )
    hidden = _hidepid(proc_root)
    if hidden:
        return f"/proc is mounted with {hidden}", f"mount it without: sudo mount -o remount,hidepid=0 /proc{instead}"
    if _has_cap_sys_ptrace(proc_root):
        return (
            "the kernel refused although CAP_SYS_PTRACE is held (a seccomp profile or another user namespace)",
            f"run perfguard in the server's container, with --security-opt seccomp=unconfined{instead}",
        )
    if scope:
        return (
            f"kernel.yama.ptrace_scope is {scope} and CAP_SYS_PTRACE is missing",
            f"sudo sysctl kernel.yama.ptrace_scope=0, or give the container --cap-add=SYS_PTRACE{instead}",
        )
    return (
        "the process belongs to another user, or this container lacks CAP_SYS_PTRACE",
        f"run perfguard as the server's user, or give the container --cap-add=SYS_PTRACE{instead}",
    )


def _yama_scope(proc_root: Path) -> int:
    try:
        return int((proc_root / "sys/kernel/yama/ptrace_scope").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _has_cap_sys_ptrace(proc_root: Path) -> bool:
    try:
        status = (proc_root / "self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_PTRACE & 1)
    return False


def _hidepid(proc_root: Path) -> str:
    """Return the hidepid option of /proc's mount where it hides processes, else an empty text."""
    try:
        mounts = (proc_root / "mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == "/proc" and fields[2] == "proc":  # noqa: PLR2004 - device, path, type, options
            for option in fields[3].split(","):
                name, _, value = option.partition("=")
                if name == "hidepid" and value not in {"0", "off"}:
                    return option
    return ""
