"""A result as JUnit XML, for a CI that shows tests: the verdict is a test, and so is every user metric.

What decides is the verdict, as with the exit code: a metric fails only where the verdict is a regression. What could
not be judged is skipped: it is neither good nor bad.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.report import words
from perfguard.report.clean import AnyResult, clean
from perfguard.report.view import Page, build_page

if TYPE_CHECKING:
    from collections.abc import Iterable

_REGRESSIONS = ("culprit", "slower")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LIMIT = 2_000


def to_junit(result: AnyResult) -> str:
    """Give `result` as one JUnit test suite. Home directories and secrets are redacted."""
    page = build_page(clean(result, home=str(Path.home())))
    name = f"perfguard {page.kind}"
    suite = ET.Element(
        "testsuite", {"name": f"{name}: {_text(page.run.scenario, 200)}", "time": f"{page.run.wall_s:.3f}"}
    )
    properties = ET.SubElement(suite, "properties")
    for key, value in (("command", page.run.command), ("seed", str(page.run.seed)), *page.environment):
        ET.SubElement(properties, "property", {"name": _text(key, 100), "value": _text(value, _LIMIT)})
    _verdict(suite, page, name)
    _effects(suite, page, name)
    _untestable(suite, page, name)
    for kind in ("failure", "skipped", "error"):
        count = str(len(suite.findall(f"testcase/{kind}")))
        suite.set({"failure": "failures", "skipped": "skipped", "error": "errors"}[kind], count)
    suite.set("tests", str(len(suite.findall("testcase"))))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", {"classname": classname, "name": _text(name, 300)})


def _verdict(suite: ET.Element, page: Page, classname: str) -> None:
    case = _case(suite, classname, "verdict")
    sentence = _text(page.banner.sentence, _LIMIT)
    if page.banner.look in _REGRESSIONS:
        ET.SubElement(case, "failure", {"type": page.banner.look, "message": sentence}).text = "\n".join(_details(page))
    elif page.banner.look == "unknown":
        ET.SubElement(case, "skipped", {"message": sentence})
    else:
        ET.SubElement(case, "system-out").text = sentence


def _details(page: Page) -> Iterable[str]:
    if page.culprit:
        yield _text(f"{page.culprit.commit} {page.culprit.subject} (posterior {page.culprit.posterior})", _LIMIT)
    for row in page.findings:
        if row.fired:
            yield _text(f"{row.rule} ({row.role}): {row.effect}", _LIMIT)
    for frame in [row for row in page.frames if row.significant][:10]:
        yield _text(f"{frame.change} ms per request ({frame.interval}) in {frame.role}: {frame.frame}", _LIMIT)


def _effects(suite: ET.Element, page: Page, classname: str) -> None:
    for row in page.effects:
        case = _case(suite, classname, row.metric)
        said = f"{row.change} ({row.interval}), {_text(row.meaning, 30)}, {words.counted(row.pairs, 'pair')}"
        if row.meaning == "worse" and page.banner.look in _REGRESSIONS:
            ET.SubElement(case, "failure", {"type": "worse", "message": said})
        else:
            ET.SubElement(case, "system-out").text = said


def _untestable(suite: ET.Element, page: Page, classname: str) -> None:
    for row in page.revisions:
        if row.untestable:
            case = _case(suite, classname, f"revision {row.label} can be tested")
            ET.SubElement(case, "skipped", {"message": _text(row.untestable_reason, _LIMIT)})


def _text(text: str, limit: int) -> str:
    """Cut `text` and take out what XML has no room for, whatever the escape."""
    return _NOT_XML.sub("\ufffd", words.shorten(text, limit))
