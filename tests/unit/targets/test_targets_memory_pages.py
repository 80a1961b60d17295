"""Huge pages are asked for in the environment, beside what else is set there, and whether they come is tried out."""

import re
import sys
from pathlib import Path

from perfguard.model.study import MemoryPages
from perfguard.targets.memory_pages import pages_environment, probe_pages

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_default_pages_leave_the_environment_as_it_is():
    assert pages_environment(MemoryPages.DEFAULT, (("A", "1"),)) == (("A", "1"),)


def test_other_settings_of_malloc_are_kept():
    others = (("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"), ("A", "1"))
    assert dict(pages_environment(MemoryPages.HUGE, others)) == {
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1",
        "A": "1",
    }
    assert pages_environment(MemoryPages.HUGE) == (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)


def test_a_process_tells_what_it_was_given():
    told = {pages: probe_pages(Path(sys.executable), pages) for pages in MemoryPages}
    given = {pages: int(re.fullmatch(r"(\d+) of 64 MiB in huge pages", text)[1]) for pages, text in told.items()}
    assert given[MemoryPages.DEFAULT] <= given[MemoryPages.HUGE] <= 66
    if "[never]" in SETTING.read_text():
        assert given[MemoryPages.HUGE] == 0


def test_a_probe_that_cannot_run_says_so(tmp_path):
    assert probe_pages(tmp_path / "python", MemoryPages.HUGE).startswith("not known: ")
