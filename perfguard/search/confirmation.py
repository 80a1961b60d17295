"""What confirming a culprit beside its parent adds to what placed it.

The search says P(k is the first bad one) for every k. The duel of revision c and its parent, on servers of its own, is
new evidence about all of them: where c is the culprit its values come from a pair that differs, where any other k is,
from a pair that does not. By Bayes' rule the odds of c are multiplied by the duel's Bayes factor.

Where the search ran on an evidence metric, that metric may have moved elsewhere than what users feel. So a share of the
belief stays spread evenly over all revisions before the duel, and only the duel itself can take it away.
"""

from __future__ import annotations

import math

import numpy as np

from perfguard.search.config import Floats

# How often the function that grew most grew where the user metric fell. Careful: it is the duel that has to show it.
METRICS_AGREE = 0.9
# A culprit is named with this much less doubt than the confidence allows: to blame an innocent commit costs most.
CARE = 5.0


def doubt_allowed(confidence: float) -> float:
    """Return the largest probability of another culprit at which one is named."""
    return (1.0 - confidence) / CARE


def before_confirming(located: Floats, *, other_metric: bool) -> Floats:
    """Return the belief about the user metric, shape `(revisions,)`, from where a search placed the change.

    `located[k]` is P(k is the first bad) as searched; it sums to one at the most, what is missing being "no change",
    which the ends have ruled out. `other_metric` says that the search ran on another metric than the user's.
    """
    belief: Floats = np.asarray(located, dtype=np.float64) / float(np.sum(located))
    if not other_metric:
        return belief
    even = np.ones(belief.size)
    even[0] = 0.0
    mixed: Floats = METRICS_AGREE * belief + (1.0 - METRICS_AGREE) * even / even.sum()
    return mixed


def confirm(belief: Floats, culprit: int, log_bayes_factor: float) -> Floats:
    """Return the posterior over the first bad revision once `culprit` and its parent were compared.

    `log_bayes_factor` is how much likelier the duel's values are where the two differ than where they do not.
    """
    log_belief = np.log(np.maximum(belief, 1e-300))
    log_belief[culprit] += log_bayes_factor
    weights = np.where(belief > 0.0, np.exp(log_belief - log_belief.max()), 0.0)
    posterior: Floats = weights / weights.sum()
    return posterior


def confidence_needed(belief: float, confidence: float) -> float:
    """Return the confidence that a duel needs so that a culprit of probability `belief` can be named after it.

    A duel's own probability starts at even odds; what the search knows already is multiplied in afterwards.
    """
    doubt = doubt_allowed(confidence)
    log_needed = math.log((1.0 - doubt) / doubt) - math.log(belief / max(1.0 - belief, 1e-12))
    alone = 1.0 / (1.0 + math.exp(-log_needed))
    return max(confidence, alone)
