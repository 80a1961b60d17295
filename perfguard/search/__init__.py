"""Which revisions to run next, what is known so far, and when to stop. Pure: no file, clock, process or git."""

from perfguard.search.search import Outcome, Phase, Search, SearchConfig, SearchResult

__all__ = ["Outcome", "Phase", "Search", "SearchConfig", "SearchResult"]
