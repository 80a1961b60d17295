"""A comparison whose trials looked at the GIL: by process, by stack, with threads that can be told apart."""

from __future__ import annotations

import sample_results as samples

from perfguard.model.gil_stacks import GilLayers
from perfguard.model.result import RoleProfile
from perfguard.report.render import write_report

MAIN, PARSE, POLL = "main (server.py:1)", "parse (server.py:7)", "poll (helper.py:3)"


def layers(scale, **changes):
    told = {
        "looks": 100,
        "holding": (((MAIN, PARSE), 4.0 * scale), ((MAIN, POLL), 0.5)),
        "holding_threads": ("MainThread", "pool_0"),
        "waiting": (((MAIN, "lock (helper.py:9)"), 1.0), ((MAIN, POLL), 3.0 * scale)),
        "waiting_threads": ("pool_0", "pool_0"),
        "meanwhile": (
            ("poll (helper.py)", "parse (server.py)", 2.4 * scale),
            ("lock (helper.py)", "parse (server.py)", 1.0),
            ("poll (helper.py)", "main (server.py)", 0.6 * scale),
        ),
    }
    return GilLayers(**{**told, **changes})


def gil_profile(gil, role="rank-0"):
    return RoleProfile(
        role=role,
        samples=100,
        trials=2,
        stacks=(((MAIN, PARSE), 5.0), ((MAIN, POLL), 1.0)),
        classes=("pickle", "other"),
        threads=("MainThread", "pool_0"),
        gil=gil,
    )


def write_gil_report(path, before, after):
    """Write the comparison with what is known of each side's GIL by stack; gives its path."""
    baseline, candidate = samples.revision(63), samples.revision(64)
    trials = (
        samples.completed(1, 1, baseline, 150.0, gil=(samples.role_gil("rank-0", 0.5, 0.02),)),
        samples.completed(2, 1, candidate, 120.0, gil=(samples.role_gil("rank-0", 0.4, 0.22),)),
    )
    result = samples.compare_result(
        baseline=baseline,
        candidate=candidate,
        baseline_profiles=(gil_profile(before),),
        candidate_profiles=(gil_profile(after),),
        grown_frames=(),
        trials=trials,
    )
    return write_report(result, path)
