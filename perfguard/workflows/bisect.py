"""Bisect: detect on what users feel, search on what stacks show, confirm on what users feel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perfguard.evidence.metric import EvidenceMetric, evidence_metrics, metric_value
from perfguard.evidence.trial import TrialEvidence
from perfguard.model.fix import FixMode
from perfguard.model.progress import Progress
from perfguard.model.result import BisectResult, BisectVerdict, Direction
from perfguard.model.revision import Revision
from perfguard.model.trial import Trial
from perfguard.search import Duel, DuelConfig, DuelResult, DuelVerdict, Question, Search, SearchConfig
from perfguard.search.confirmation import before_confirming, confidence_needed, confirm
from perfguard.stats.starts import EffectPosterior
from perfguard.workflows.bisect_result import Asked, Found, assemble
from perfguard.workflows.compare import compare_stacks, duel_config, turned, why_unknown
from perfguard.workflows.fix import ROUNDS, with_fix
from perfguard.workflows.judge import Judge
from perfguard.workflows.metrics import log_worse
from perfguard.workflows.narrowing import Narrowing
from perfguard.workflows.outlook import Outlook
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, open_bench, open_range, open_store

# How a run that folds nothing is told from one that does, in the store.
ALL_REVISIONS = "all-revisions"
# What stands before the ways out that a run measures, in the store.
FIX = "fix="
# What a run had that does not say how many: for long there was no choice.
UNTOLD_ROUNDS = 3

Floats = npt.NDArray[np.float64]

# How many candidates of the stacks the user metric may refute before the search goes on without stacks.
MAX_REFUTED = 2

# An evidence metric below this share of its larger end counts as this share: the log of "absent" must be a number.
ABSENT_FRAC = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    """Where the evidence metric moved, in indices of the whole range; `culprit` is None where it cannot tell."""

    culprit: int | None
    reason: str
    credible_set: tuple[int, ...]
    posterior: Floats


def bisect(
    request: RunRequest,
    good_ref: str,
    bad_ref: str,
    direction: Direction,
    progress: Progress,
    *,
    all_revisions: bool = False,
    fix: FixMode = FixMode.NONE,
    fix_rounds: int | None = None,
) -> BisectResult:
    """Find the first revision after `good_ref` that is slower (or faster), up to `bad_ref`.

    Revisions that touch no file that the servers load count as their parents, unless `all_revisions` is True. `fix` is
    what is measured of ways out once there is a culprit, in `fix_rounds` blocks (None: as many as usual).

    Raises:
        UsageError: a revision does not exist, both are the same, or good is not an ancestor of bad.
    """
    rounds = fix_rounds or ROUNDS[fix]
    verb = verb_of(direction, all_revisions=all_revisions, fix=fix, rounds=rounds)
    repository = open_range(request, good_ref, bad_ref, progress)
    history = repository.between(good_ref, bad_ref)
    revisions = history.revisions
    with (
        open_store(request, verb, revisions) as store,
        Session(open_bench(request, repository, store, progress)) as session,
    ):
        progress.say(
            f"{len(revisions) - 1} candidates after {revisions[0].label}, up to {revisions[-1].label}; "
            f"scenario {request.scenario.name}; the run is kept in {request.run_dir}"
        )
        narrowing = Narrowing(revisions, repository.changes(revisions), fold=not all_revisions)
        asked = Asked(
            request=request, session=session, judge=Judge(session, revisions), revisions=revisions, direction=direction
        )
        found = _Bisect(asked, narrowing).find()
        hunks = repository.hunks(revisions[found.culprit]) if found.culprit is not None else ()
        result = assemble(asked, found, hunks, origin=history.origin)
        return with_fix(result, request, session, fix, rounds)


def verb_of(direction: Direction, *, all_revisions: bool, fix: FixMode, rounds: int) -> str:
    """Return what the store calls a bisect, such as `bisect regression all-revisions fix=all:4`."""
    folding = f" {ALL_REVISIONS}" if all_revisions else ""
    counted = "" if rounds == UNTOLD_ROUNDS else f":{rounds}"
    return f"bisect {direction.value}{folding}" + ("" if fix is FixMode.NONE else f" {FIX}{fix.value}{counted}")


class _Bisect:
    """One bisect in progress."""

    def __init__(self, asked: Asked, narrowing: Narrowing) -> None:
        self._request = asked.request
        self._session = asked.session
        self._revisions = asked.revisions
        self._direction = asked.direction
        self._judge = asked.judge
        self._narrowing = narrowing
        self._duels: dict[tuple[Revision, Revision], DuelResult] = {}
        self._value = log_worse(asked.request.scenario.metric)
        self._limits = asked.request.scenario.limits
        self._outlook = Outlook(max_trials=self._limits.max_trials, seed=asked.request.seed)

    def find(self) -> Found:
        """Gate the ends, locate the change, confirm it."""
        last = len(self._revisions) - 1
        self._say(f"gate: does {self._revisions[last].label} differ from {self._revisions[0].label}?")
        self._say(self._outlook.of_bisect(self._duel_config(), [1.0] * (last + 1), self._session.trials))
        gate = self._duel(0, last)
        if gate.verdict is not self._change:
            verdict = BisectVerdict.NO_CHANGE if gate.verdict is DuelVerdict.NO_CHANGE else BisectVerdict.UNKNOWN
            ends = (self._revisions[0], self._revisions[-1])
            return Found(
                verdict=verdict,
                reason=why_unknown(gate, self._session.trials, ends) or self._too_small(),
                culprit=None,
                credible_set=tuple(range(1, last + 1)) if verdict is BisectVerdict.UNKNOWN else (),
                posterior=(0.0, *([self._p_change(gate) / last] * last)),
                confidence=0.0,
            )
        if last == 1:
            return self._culprit(1, np.array([0.0, 1.0]), gate.probability)
        return self._locate_and_confirm()

    def _duel(self, low: int, high: int, belief: float | None = None) -> DuelResult:
        """Compare two revisions on the user metric; `belief` is how likely `high` is the culprit, where it may be."""
        pair = (self._revisions[low], self._revisions[high])
        if pair in self._duels:
            return self._duels[pair]
        config = self._duel_config()
        if belief is not None:
            config = replace(config, confidence=confidence_needed(belief, self._limits.confidence))
        duel = Duel(config, seed=self._request.seed + 1000 * low + high)
        self._duels[pair] = self._session.duel(duel, pair, self._value)
        return self._duels[pair]

    def _duel_config(self) -> DuelConfig:
        question = Question.WORSE if self._direction is Direction.REGRESSION else Question.BETTER
        left = self._limits.max_trials - len(self._session.trials)
        return duel_config(question, self._limits, trials_left=left)

    def _tell_rest(self, prior: Sequence[float] | None) -> None:
        """Tell what the search among revisions of weights `prior` (None: it is over) and the confirmation take."""
        gate = self._gate_posterior
        if gate is not None:
            self._say(self._outlook.of_rest(self._duel_config(), gate, self._session.trials, prior=prior))

    @property
    def _gate_posterior(self) -> EffectPosterior | None:
        """What the ends' duel said of the effect and of the spreads; None before it."""
        gate = self._duels.get((self._revisions[0], self._revisions[-1]))
        return None if gate is None else gate.posterior

    @property
    def _change(self) -> DuelVerdict:
        """The verdict of a duel that is looked for."""
        return DuelVerdict.WORSE if self._direction is Direction.REGRESSION else DuelVerdict.BETTER

    def _p_change(self, duel: DuelResult) -> float:
        if duel.posterior is None:
            return 0.0
        return duel.posterior.p_towards(1 if self._direction is Direction.REGRESSION else -1)

    def _too_small(self) -> str:
        return f"a change of {100 * self._limits.min_effect_frac:g}% or more is ruled out"

    def _evidence_metrics(self) -> tuple[EvidenceMetric, ...]:
        """Return the frames whose cost moved beyond its noise between the ends, the best lever first."""
        good, bad = self._ends()
        if not good or not bad:
            return ()
        return evidence_metrics(good, bad, direction=self._direction)

    def _ends(self) -> tuple[tuple[TrialEvidence, ...], tuple[TrialEvidence, ...]]:
        trials = self._session.trials
        return (
            self._judge.evidence(trials, self._revisions[0]),
            self._judge.evidence(trials, self._revisions[-1]),
        )

    def _locate_and_confirm(self) -> Found:
        """Place the change by what the stacks show and confirm it on what users feel.

        Between distant ends several revisions may have moved costs, and the one that moved the best lever need not be
        the one that users feel: where the user metric refutes it, the next lever that stands elsewhere is tried, and at
        last the user metric by itself.
        """
        refuted: dict[int, Found] = {}
        for metric in (*self._evidence_metrics(), None):
            if metric is not None and len(refuted) >= MAX_REFUTED:
                continue
            found, candidate = self._try(metric, refuted)
            if found.culprit is not None or not (refuted or candidate):
                return found
            if candidate:
                refuted.setdefault(candidate, found)
        return next(iter(refuted.values()))

    def _try(self, metric: EvidenceMetric | None, refuted: Mapping[int, Found]) -> tuple[Found, int | None]:
        """Locate on one metric and confirm, again if the servers in between load files that the ends' do not.

        Returns what was found and the candidate it is about, None where none could be located.
        """
        what = f"CPU ms per request under {metric.function} in {metric.role}" if metric else "the user metric"
        while True:
            located = self._locate(metric, what)
            if located.culprit is not None and located.culprit in refuted:
                return refuted[located.culprit], located.culprit
            found = self._confirm(metric, located)
            overlooked = self._narrowing.overlooked(self._session.trials)
            if not overlooked:
                return found, located.culprit
            self._say(f"{overlooked} more can matter: revisions in between load files that the ends do not")

    def _locate(self, metric: EvidenceMetric | None, what: str) -> _Located:
        """Place the change among the revisions that can matter, those first that touch what grew."""
        self._say(f"searching on {what}")
        good, bad = self._ends()
        grown = compare_stacks(good, bad, confidence=self._limits.confidence, direction=self._direction)
        if self._direction is Direction.IMPROVEMENT:
            grown = tuple(turned(frame) for frame in grown)
        self._narrowing.look(self._session.trials)
        closure, revisions = self._narrowing.closure, self._narrowing.representatives
        if closure.can_matter < len(self._revisions) - 1:
            self._say(f"{closure.describe()}: the others touch no file that the servers load")
        prior = self._narrowing.prior(grown)
        self._tell_rest(prior)
        search = Search(
            len(revisions),
            self._search_config(shared_level=metric is not None),
            prior=prior,
            seed=self._request.seed,
        )
        value = self._value
        if metric is not None:
            value = self._log_cost(metric)
            index_of = {revision.commit: index for index, revision in enumerate(self._revisions)}
            for trial in self._session.trials:
                if not math.isnan(log_ms := value(trial)):
                    search.observe(closure.group(index_of[trial.revision]), log_ms)
        self._session.search(search, revisions, value)
        result = search.result()
        posterior = np.zeros(len(self._revisions))
        posterior[list(closure.representatives)] = result.posterior
        return _Located(
            culprit=None if result.culprit is None else closure.representatives[result.culprit],
            reason=result.reason,
            credible_set=tuple(closure.representatives[group] for group in result.credible_set),
            posterior=posterior,
        )

    def _log_cost(self, metric: EvidenceMetric) -> Callable[[Trial], float]:
        """Return what gives the log of a trial's evidence metric; NaN where the trial was not profiled."""
        measured = [metric_value(trial, metric) for trials in self._ends() for trial in trials]
        floor = ABSENT_FRAC * max(ms for ms in measured if not math.isnan(ms))

        def value(trial: Trial) -> float:
            evidence = self._judge.evidence_of(trial)
            ms = math.nan if evidence is None else metric_value(evidence, metric)
            return math.nan if math.isnan(ms) else math.log(max(ms, floor))

        return value

    def _confirm(self, metric: EvidenceMetric | None, located: _Located) -> Found:
        """Compare the candidate with its parent on the user metric; both kinds of evidence must agree."""
        if located.culprit is None:
            return self._unknown(located, located.reason)
        user_metric = self._request.scenario.metric.value
        culprit = located.culprit
        parent, label = self._revisions[culprit - 1].label, self._revisions[culprit].label
        self._say(f"confirming: does {label} differ from its parent {parent} on {user_metric}?")
        self._tell_rest(None)
        belief = before_confirming(located.posterior, other_metric=metric is not None)
        pair = self._duel(culprit - 1, culprit, belief=float(belief[culprit]))
        if pair.verdict is not self._change or pair.posterior is None or self._gate_posterior is None:
            settled = pair.verdict is DuelVerdict.NO_CHANGE
            user = "differ by less than the smallest effect asked for" if settled else "does not settle"
            moved = user_metric if metric is None else metric.function
            return self._unknown(located, f"{moved} moved at {label}, but {user_metric} of {label} and {parent} {user}")
        sign = 1 if self._direction is Direction.REGRESSION else -1
        evidence = pair.posterior.log_bayes_factor_towards(sign, expected=self._gate_posterior)
        posterior = confirm(belief, culprit, evidence)
        sure = float(posterior[culprit])
        if sure < self._limits.confidence:
            return self._unknown(located, f"{label} is the likeliest, but only with probability {sure:.2f}")
        return self._culprit(culprit, posterior, sure)

    def _culprit(self, culprit: int, posterior: Floats, confidence: float) -> Found:
        return Found(
            verdict=BisectVerdict.CULPRIT,
            reason="",
            culprit=culprit,
            credible_set=(culprit,),
            posterior=tuple(map(float, posterior)),
            confidence=confidence,
        )

    def _unknown(self, located: _Located, reason: str) -> Found:
        return Found(
            verdict=BisectVerdict.UNKNOWN,
            reason=reason,
            culprit=None,
            credible_set=located.credible_set,
            posterior=tuple(map(float, located.posterior)),
            confidence=0.0,
        )

    def _search_config(self, *, shared_level: bool) -> SearchConfig:
        """Return the limits of the search between the gate and the confirmation, which are duels."""
        left = self._limits.max_trials - len(self._session.trials)
        return SearchConfig(
            confidence=self._limits.confidence,
            min_effect=self._limits.min_effect_frac,
            max_trials=max(left, 0),
            direction="slower" if self._direction is Direction.REGRESSION else "faster",
            gate=False,
            confirm=False,
            shared_level=shared_level,
        )

    def _say(self, message: str) -> None:
        self._session.bench.progress.say(message)
