"""Start a server and see to it that nothing of it survives: run as a script, standard library only.

A small process between perfguard and the server. As a "child subreaper" it inherits every orphan below it, so no descendant
gets out of its sight by a double fork, a new session or a new process group; it ends them all when it is told to, or when
perfguard is gone (its end of the socket is closed, or it is no longer the parent), whatever killed perfguard.

What ends what:
    perfguard ends or is killed      the reaper kills the tree, then removes segments and directories
    the reaper is killed             the server and its workers get SIGKILL from the kernel (PR_SET_PDEATHSIG); perfguard kills
                                     the rest when it stops the server, and has this script clean up (`--clean`)
    both are killed at once          the server and its workers get SIGKILL; other helpers of theirs and files may stay

It talks JSON lines over the socket whose number is its argument. In: the specification, then
`{"order": "stop", "signal": 2, "grace_s": 5}`. Out: `started` (pid) or `failed` (error), `exited` (returncode), `stopped`.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHM_DIR = "/dev/shm"
SHM_PREFIX_CHARS = 16  # a prefix that others could have by chance is not believed
LAST_HELPERS_S = 0.5  # how long helpers (a resource tracker, say) may clean up after the server's own end
KILL_LIMIT_S = 15.0
TICK_S = 0.02
WATCH_S = 1.0

libc = ctypes.CDLL(None, use_errno=True)


def main(control_fd):
    control = socket.socket(fileno=control_fd)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    wake = wake_on_signals()
    reader = control.makefile("rb")
    line = reader.readline()
    if line:
        Reaper(control, reader, wake, json.loads(line)).run()


def wake_on_signals():
    """Return a socket that becomes readable on a signal; none of the polite signals ends the reaper by itself."""
    readable, writable = socket.socketpair()
    readable.setblocking(False)
    writable.setblocking(False)
    # Handlers and not SIG_IGN, which the server would inherit.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
    wake_on_signals.keep = writable
    return readable


class Reaper:
    def __init__(self, control, reader, wake, specification):
        self.control = control
        self.reader = reader
        self.wake = wake
        self.specification = specification
        self.shm_before = {entry.inode() for entry in shm_entries()}
        self.shm_held = set()
        self.server = None
        self.returncode = None
        self.killed = set()

    def run(self):
        try:
            self.start()
        except OSError as error:
            self.tell(event="failed", error=error.strerror or str(error))
            remove_directories(self.specification["remove_dirs"])
            return
        self.tell(event="started", pid=self.server.pid)
        order = self.wait_for_order()
        self.note_shm(descendants())
        if order is not None:
            self.ask_to_end(order)
        leftover = self.kill_all()
        self.clean_up()
        self.tell(event="stopped", killed=len(self.killed), leftover=sorted(leftover))

    def start(self):
        specification = self.specification
        reaper_pid = os.getpid()

        def before_exec():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != reaper_pid:
                os._exit(1)
            # A shell that put perfguard into the background lets its children ignore SIGINT.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])

        log = os.open(specification["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self.server = subprocess.Popen(
                specification["command"],
                env=specification["environment"],
                cwd=specification["working_dir"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=before_exec,
            )
        finally:
            os.close(log)

    def wait_for_order(self):
        """Wait until perfguard orders a stop, and return the order; None when perfguard is gone."""
        while True:
            ready, _, _ = select.select([self.control, self.wake], [], [], WATCH_S)
            if self.wake in ready and signal.SIGTERM in self.wake.recv(4096):
                return None
            self.reap()
            if self.control in ready:
                line = self.reader.readline()
                return json.loads(line) if line else None
            # A forked helper of perfguard's may hold the socket's other end open beyond perfguard's life.
            if os.getppid() != self.specification["parent"]:
                return None

    def ask_to_end(self, order):
        """Send the server the order's signal, and wait for it and its helpers to end, `grace_s` at the most."""
        for pid in descendants():
            send(pid, signal.SIGCONT)
        if self.returncode is None:
            send(self.server.pid, order["signal"])
        deadline = time.monotonic() + order["grace_s"]
        while self.returncode is None and time.monotonic() < deadline:
            time.sleep(TICK_S)
            self.reap()
        helpers_deadline = min(deadline, time.monotonic() + LAST_HELPERS_S)
        while time.monotonic() < helpers_deadline and descendants():
            time.sleep(TICK_S)
            self.reap()
        self.note_shm(descendants())

    def kill_all(self):
        """Kill every descendant, again and again: one may fork while the list is made. Return those that cannot be killed."""
        deadline = time.monotonic() + KILL_LIMIT_S
        while True:
            self.reap()
            alive = descendants()
            if not alive or time.monotonic() > deadline:
                return alive
            for pid in alive:
                self.killed.add(pid)
                send(pid, signal.SIGKILL)
            time.sleep(TICK_S)

    def reap(self):
        """Collect every dead child, the adopted ones too, and tell of the server's end."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.server.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.tell(event="exited", returncode=self.returncode)

    def note_shm(self, pids):
        """Remember the segments that `pids` have open or mapped, by name and inode."""
        for pid in pids:
            self.shm_held |= shm_of(pid)

    def clean_up(self):
        held = {(name, inode) for name, inode in self.shm_held if inode not in self.shm_before}
        remove_shm(held | recorded_shm(self.specification["record_dir"]))
        remove_directories(self.specification["remove_dirs"])

    def tell(self, **message):
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps(message).encode() + b"\n")


def remove_shm(segments):
    """Remove those of the (name, inode) pairs that still exist and nobody uses; a name may have been given anew since."""
    leaked = segments & {(entry.name, entry.inode()) for entry in shm_entries()}
    if not leaked:
        return
    in_use = set().union(*(shm_of(pid) for pid in all_pids()))
    for name, _ in leaked - in_use:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(SHM_DIR, name))


def remove_directories(directories):
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def send(pid, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants():
    """Return the pids of all living processes below this one."""
    children = {}
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name stands in parentheses and may hold anything, parentheses too.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        children.setdefault(int(parent), []).append((pid, state != b"Z"))
    found = []
    pending = [os.getpid()]
    while pending:
        for pid, alive in children.get(pending.pop(), ()):
            pending.append(pid)
            if alive:
                found.append(pid)
    return found


def shm_entries():
    try:
        with os.scandir(SHM_DIR) as entries:
            return list(entries)
    except OSError:
        return []


def shm_of(pid):
    """Return the (name, inode) pairs of the segments that a process has mapped or open."""
    found = set()
    prefix = SHM_DIR + "/"
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(prefix):
                found.add((fields[5][len(prefix) :], int(fields[4])))
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                path = f"/proc/{pid}/fd/{descriptor}"
                target = os.readlink(path)
                if target.startswith(prefix):
                    found.add((target[len(prefix) :], os.stat(path).st_ino))
    return found


def recorded_shm(record_dir):
    """Return the (name, inode) pairs of segments that the server's processes wrote down, by name or by their prefix."""
    found = set()
    prefixes = set()
    if not record_dir:
        return found
    with contextlib.suppress(OSError):
        for name in os.listdir(record_dir):
            with contextlib.suppress(OSError), open(os.path.join(record_dir, name), encoding="utf-8") as file:
                for line in file:
                    with contextlib.suppress(ValueError):
                        entry = json.loads(line)
                        if "shm" in entry:
                            found.add((entry["shm"], entry["inode"]))
                        elif len(entry.get("shm_prefix", "")) >= SHM_PREFIX_CHARS:
                            prefixes.add(entry["shm_prefix"])
    if prefixes:
        starts = tuple(prefixes)
        found |= {(entry.name, entry.inode()) for entry in shm_entries() if entry.name.startswith(starts)}
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--clean":
        remove_shm(recorded_shm(sys.argv[2]))
        remove_directories(sys.argv[3:])
    else:
        main(int(sys.argv[1]))
