"""The rules' names, thresholds and meanings: the one place from which rules judge and the documentation is made."""

from __future__ import annotations

from dataclasses import dataclass, field

PICKLE_DOMINATED = "pickle_dominated"
CPU_SATURATED = "cpu_saturated"
SERIALISED_RANKS = "serialised_ranks"
DUPLICATE_WORK = "duplicate_work"
BLOCKING_EVENT_LOOP = "blocking_event_loop"
GIL_CONTENDED = "gil_contended"
MEMORY_GROWTH = "memory_growth"
GPU_STARVED = "gpu_starved"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """Every threshold of every rule; the `why` of each says where it comes from. Shares are fractions of one."""

    confidence: float = field(
        default=0.98,
        metadata={
            "why": "level of the intervals over trials; above the customary 95%, since a dozen rules and roles are "
            "judged at once: at most 5% of comparisons of equal revisions may leave any finding"
        },
    )
    single_trial_growth_ms: float = field(
        default=0.1,
        metadata={
            "why": "with one trial a side there is no interval: several samples' worth at 100 Hz and 500 requests"
        },
    )
    single_trial_growth_frac: float = field(
        default=0.2,
        metadata={
            "why": "with one trial a side: over twice the 8% by which starts of the same server were seen to differ"
        },
    )
    single_trial_errors: float = field(
        default=3.0, metadata={"why": "with one trial a side: three standard errors of counting samples"}
    )
    pickle_share: float = field(
        default=0.15,
        metadata={
            "why": "share of a role's working CPU: below it, removing all pickling gains less than most starts differ"
        },
    )
    pickle_growth_of_working: float = field(
        default=0.05,
        metadata={"why": "growth of pickling, as a share of the role's working CPU before, that is worth a line"},
    )
    thread_saturated_cores: float = field(
        default=0.9, metadata={"why": "a thread can use one core; from nine tenths of it on, queues grow without bound"}
    )
    machine_saturated_frac: float = field(
        default=0.95, metadata={"why": "no core is left for more than a twentieth of the time"}
    )
    run_delay_frac: float = field(
        default=0.35,
        metadata={
            "why": "a ready thread waits a third of its time for a core; four busy processes on two cores show 0.15-0.4"
        },
    )
    run_delay_min_cores: float = field(
        default=0.1,
        metadata={"why": "a thread that works less than this wakes up now and then; its waits hold little back"},
    )
    saturation_step: float = field(
        default=0.05, metadata={"why": "crossing a threshold by less than this is chance, not a change of state"}
    )
    rank_gap_of_entry: float = field(
        default=0.2,
        metadata={"why": "a fifth of the entry rank's work that no other rank has: they wait that long"},
    )
    rank_gap_growth: float = field(
        default=0.05, metadata={"why": "growth of that gap, as a share of the entry rank's working CPU before"}
    )
    duplicate_share: float = field(
        default=0.05,
        metadata={"why": "the least share of every rank's working CPU that is worth doing once for all"},
    )
    duplicate_growth_of_working: float = field(
        default=0.02, metadata={"why": "growth of that work, as a share of a rank's working CPU before"}
    )
    loop_block_ms: float = field(
        default=5.0,
        metadata={
            "why": "asyncio reports callbacks over 100 ms (loop.slow_callback_duration); of twenty requests in flight "
            "that hold the loop for 5 ms each, the last one waits that long"
        },
    )
    loop_block_frac: float = field(
        default=0.3,
        metadata={"why": "of a single profile: share of the loop's thread in calls that do not yield"},
    )
    rank_wait_frac: float = field(
        default=0.3,
        metadata={"why": "of single profiles: share of a rank's samples in collectives beyond the entry rank's own"},
    )
    min_samples: int = field(
        default=100,
        metadata={"why": "of a single profile: with fewer samples no share is known to within ten points"},
    )
    throttled_frac: float = field(
        default=0.05,
        metadata={"why": "a quota that stops the process for a twentieth of the time shows in its latency"},
    )
    gil_wait_frac: float = field(
        default=0.10, metadata={"why": "a thread that waits less loses less than two starts of one server differ (8%)"}
    )
    gil_wait_of_wanted: float = field(
        default=0.20,
        metadata={"why": "of the time in which a thread wanted the interpreter: its Python then takes 25% longer"},
    )
    gil_max_unknown_holder_frac: float = field(
        default=0.05, metadata={"why": "the share of looks that may miss who held the GIL before holding is not told"}
    )
    memory_growth_mib_per_s: float = field(
        default=1.0, metadata={"why": "a gibibyte in 17 minutes, which no cache fills up for ever"}
    )
    gpu_starved_frac: float = field(
        default=0.5, metadata={"why": "a card that idles half of the time could serve twice as much"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDoc:
    """What a rule means, what usually helps, and which fields of `RuleConfig` it alone is held against."""

    rule: str
    meaning: str
    helps: str
    settings: tuple[str, ...]


CHANGE_SETTINGS = ("confidence", "single_trial_growth_ms", "single_trial_growth_frac", "single_trial_errors")
RULE_DOCS: tuple[RuleDoc, ...] = (
    RuleDoc(
        rule=PICKLE_DOMINATED,
        meaning="A process spends much of its working CPU on turning objects into bytes or back; beside a good "
        "revision, more than before.",
        helps="Send tensors as raw buffers or through shared memory, and only the small rest as objects; send once, "
        "and only what the receiver reads.",
        settings=("pickle_share", "pickle_growth_of_working", "min_samples"),
    ),
    RuleDoc(
        rule=CPU_SATURATED,
        meaning="A thread, or the machine, has no CPU left for requests, polling taken off; and it was not so before, "
        "or a request costs more than before.",
        helps="Look at the functions that grew; give the process a core of its own; spread the work over processes.",
        settings=(
            "thread_saturated_cores",
            "machine_saturated_frac",
            "run_delay_frac",
            "run_delay_min_cores",
            "saturation_step",
            "throttled_frac",
        ),
    ),
    RuleDoc(
        rule=SERIALISED_RANKS,
        meaning="The entry rank does work for every request that the other ranks wait for.",
        helps="Let every rank do its own share; overlap the entry rank's work with the others' computing; hand over "
        "what is ready first.",
        settings=("rank_gap_of_entry", "rank_gap_growth", "rank_wait_frac", "min_samples"),
    ),
    RuleDoc(
        rule=DUPLICATE_WORK,
        meaning="Every rank pays for the same hashing, decoding or tokenising of the same request.",
        helps="Do it once, before the request is handed to the ranks, and send the result along.",
        settings=("duplicate_share", "duplicate_growth_of_working", "min_samples"),
    ),
    RuleDoc(
        rule=BLOCKING_EVENT_LOOP,
        meaning="The thread of an asyncio loop pickles, hashes, decodes, tokenises, computes or waits without "
        "yielding: meanwhile no other request moves.",
        helps="Hand the call to a thread or a process (`loop.run_in_executor`, `asyncio.to_thread`), or make it "
        "smaller.",
        settings=("loop_block_ms", "loop_block_frac", "min_samples"),
    ),
    RuleDoc(
        rule=GIL_CONTENDED,
        meaning="A thread wants the interpreter and waits for another thread of its process to give it up; beside a "
        "good revision, more than before.",
        helps="Move the holder's Python work to another process, or into calls that release the GIL.",
        settings=("gil_wait_frac", "gil_wait_of_wanted", "gil_max_unknown_holder_frac"),
    ),
    RuleDoc(
        rule=MEMORY_GROWTH,
        meaning="A process's memory (its proportional set size, shared memory included) grows all through the load.",
        helps="See what is kept: a cache without a limit, or shared memory that is not unlinked. "
        "`perfguard record --memray 30` draws who allocates.",
        settings=("memory_growth_mib_per_s",),
    ),
    RuleDoc(
        rule=GPU_STARVED,
        meaning="The graphics cards idle while a rank's thread works all the time: the CPU holds them back; and it was "
        "not so before, or they idle more than before.",
        helps="Take work off that thread (see the functions that grew), overlap it with the cards' computing, or batch "
        "more.",
        settings=("gpu_starved_frac",),
    ),
)
