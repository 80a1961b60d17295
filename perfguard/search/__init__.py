"""Which revisions to run next, what is known so far, and when to stop. Pure: no file, clock, process or git."""

from perfguard.search.config import Outcome, Phase, SearchConfig, SearchResult
from perfguard.search.duel import Duel, DuelConfig, DuelResult, DuelVerdict, Question, Round, Side, answer
from perfguard.search.search import Search

__all__ = [
    "Duel",
    "DuelConfig",
    "DuelResult",
    "DuelVerdict",
    "Outcome",
    "Phase",
    "Question",
    "Round",
    "Search",
    "SearchConfig",
    "SearchResult",
    "Side",
    "answer",
]
