"""The prompts of requests: words of a seed, and what they share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from perfguard.load.trace import BLOCK_TOKENS, TraceEntry

NUMBER_DIGITS = 7
MIN_PROMPT_CHARS = NUMBER_DIGITS + 1
_WORD_LIST = (
    "amber anchor apple arrow autumn basket beacon birch bottle branch bridge bronze candle canyon carbon castle "
    "cedar circle cloud cobalt copper coral cotton crystal dawn desert drift eagle ember fabric falcon feather "
    "field flint forest frost garden glacier granite harbor hazel helmet hollow horizon island ivory jasper "
    "kettle"
)
_WORDS = _WORD_LIST.split()


def prompt_of_chars(seed: int, number: int, chars: int) -> str:
    """Write `chars` characters of words, led by the request's number.

    The number's digits are reversed: neighbours then differ in their first token already.
    """
    return " ".join(_led_words(seed, number, chars // 4 + 1))[:chars]


def prompt_of_trace(seed: int, number: int, trace: Sequence[TraceEntry]) -> str:
    """Write request `number` of a trace that is repeated: as many words as its entry has tokens.

    Blocks of equal hashes are equal within one turn of the trace and differ between turns. What no hash covers is led
    by the request's number.
    """
    turn, place = divmod(number, len(trace))
    entry = trace[place]
    shared = [word for block in entry.hash_ids for word in _block(seed, turn, block)][: entry.input_length]
    if (own := entry.input_length - len(shared)) > 0:
        shared += _led_words(seed, number, own - 1)
    return " ".join(shared)


@lru_cache(maxsize=4096)
def _block(seed: int, turn: int, block: int) -> tuple[str, ...]:
    draw = random.Random(f"{seed}:{turn}:block:{block}")  # noqa: S311 - a seeded text, no secret
    return tuple(draw.choices(_WORDS, k=BLOCK_TOKENS))


def _led_words(seed: int, number: int, count: int) -> tuple[str, ...]:
    words = random.Random(f"{seed}:{number}").choices(_WORDS, k=count)  # noqa: S311 - a seeded text, no secret
    lead = f"{number:0{NUMBER_DIGITS}d}"[::-1]
    return (lead, *words)
