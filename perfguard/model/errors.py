"""The errors that reach a user: one clear line, an optional mend, and the exit code that goes with them."""

from __future__ import annotations

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_INCONCLUSIVE = 125
EXIT_FAILURE = 128
EXIT_USAGE = 129
EXIT_INTERRUPTED = 130


class PerfguardError(Exception):
    """Something perfguard cannot go on from; printed as one line, without a traceback.

    `message` says what is wrong and where, `hint` what mends it.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PerfguardError):
    """The command line or a scenario file asks for something that cannot be."""

    exit_code = EXIT_USAGE


class UnknownRevisionError(UsageError):
    """A revision or a release that was named does not exist."""


class UntestableError(PerfguardError):
    """One trial cannot be judged: the server did not import, start, answer or drain.

    A workflow turns it into an `Untestable` trial; it is never taken for slowness. `log` is the
    path of the server's log, `log_tail` its last lines.
    """

    exit_code = EXIT_INCONCLUSIVE

    def __init__(self, reason: str, *, hint: str | None = None, log_tail: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason
        self.log_tail = log_tail


class MissingTrialError(PerfguardError):
    """A run that is only judged again needs trial `number`, which it does not hold."""

    exit_code = EXIT_INCONCLUSIVE

    def __init__(self, number: int) -> None:
        super().__init__(f"trial {number} is missing: the run is not finished")


class OutOfTimeError(PerfguardError):
    """The time that a run may take is over: what was measured is kept, and the run can be resumed."""

    exit_code = EXIT_INCONCLUSIVE


class InterruptedRunError(PerfguardError):
    """Ctrl-C or SIGTERM: the state is saved and the run can be resumed."""

    exit_code = EXIT_INTERRUPTED
