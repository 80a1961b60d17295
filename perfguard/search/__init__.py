"""Which revisions to run next, what is known so far, and when to stop. Pure: no file, clock, process or git."""

from perfguard.search.config import Outcome, Phase, SearchConfig, SearchResult
from perfguard.search.search import Search

__all__ = ["Outcome", "Phase", "Search", "SearchConfig", "SearchResult"]
