from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.model.result import RoleProfile
from perfguard.report import render
from perfguard.report.render import render_html, write_report

EVERY = ["bisect", "no_change", "unknown", "compare", "run", "hostile"]
VOID = {"meta", "br", "input", "img", "link", "hr", "path", "use"}


class Page(HTMLParser):
    """What a strict reader sees: elements with their attributes, text outside scripts, and what was left open."""

    def __init__(self, document):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.open, self.bodies = [], [], [], {"script": [], "style": []}
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside in self.bodies:
            self.bodies[inside].append(data)
        else:
            self.text.append(data)


@pytest.mark.parametrize("name", EVERY)
def test_the_page_is_well_formed_and_loads_nothing(samples, name):
    page = Page(render_html(getattr(samples, f"{name}_result")()))
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "form"}
        assert "style" not in attributes
        assert not any(key.startswith("on") or key in {"src", "srcset", "action"} for key in attributes)
        assert all(value.startswith("#") for key, value in attributes.items() if key.endswith("href"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", EVERY)
def test_the_policy_admits_exactly_our_style_and_script(samples, name):
    page = Page(render_html(getattr(samples, f"{name}_result")()))
    policy = next(each["content"] for tag, each in page.elements if tag == "meta" and "http-equiv" in each)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    (style,) = page.bodies["style"]
    assert f"style-src 'sha256-{digest(style)}'" in policy
    for script in page.bodies["script"][1:]:  # the first is data, which never runs
        assert f"script-src 'sha256-{digest(script)}'" in policy


def digest(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_hostile_names_are_text(samples):
    page = Page(render_html(samples.hostile_result()))
    text = "".join(page.text)
    assert samples.HOSTILE in text
    assert "{{ 7 * 7 }}{% raw %}" in text
    assert "\u202e" not in text
    assert "\\u202e" in text
    data = json.loads(zlib.decompress(base64.b64decode(page.bodies["script"][0])))
    assert samples.HOSTILE in data["frames"]
    assert set(data["changes"]) == {"rank-0"}
    assert [role["name"] for role in data["roles"]] == ["__proto__", "rank-0"]


def test_secrets_and_homes_never_reach_the_page(samples):
    for result in (samples.bisect_result(), samples.compare_result()):
        document = render_html(result)
        for private in ("abc123veryprivate", "topsecretvalue", "sekrit-value", "/home/ada"):
            assert private not in document


def test_the_verdict_comes_first(samples):
    text = "".join(Page(render_html(samples.bisect_result())).text)
    assert (
        text.index("Culprit found")
        < text.index("4017a57fd lowered throughput")
        < text.index("Change from before to after")
    )
    assert "CPU run: judges the request path, not the kernels" in text
    assert "perfguard bisect 32438eba4 17a57fd86" in text
    assert re.search(r"perfguard \d+\.\d+\.\d+, schema version 1", text)


def test_the_same_result_gives_the_same_bytes(samples):
    assert render_html(samples.bisect_result()) == render_html(samples.bisect_result())


def test_without_profiles_there_is_no_viewer(samples):
    page = Page(render_html(samples.unknown_result()))
    assert page.bodies["script"] == []
    assert "Cannot be told apart" in "".join(page.text)


def test_a_page_over_the_budget_says_what_was_pruned(samples):
    stacks = tuple(((f"module_{n % 97}.function_{n} (a/b/c_{n}.py:{n})", f"leaf_{n}"), 0.001 * n) for n in range(6_000))
    profile = RoleProfile(role="rank-0", samples=10, trials=1, stacks=stacks)
    result = samples.bisect_result(baseline_profiles=(profile,), candidate_profiles=(profile,))
    budget = 220_000
    document = render_html(result, budget_bytes=budget)
    assert budget * 0.8 < len(document.encode()) <= budget
    said = " ".join("".join(Page(document).text).split())
    assert re.search(r"[\d,]+ of 5,999 stacks were pruned, the smallest first", said)
    assert "were pruned" not in render_html(result)


def test_writing_is_one_step_and_makes_the_directory(samples, tmp_path):
    path = tmp_path / "new" / "report.html"
    assert write_report(samples.bisect_result(), path) == path
    assert path.read_text(encoding="utf-8") == render_html(samples.bisect_result())
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_a_lone_surrogate_does_not_break_the_file(samples, tmp_path):
    assert "\\ud800" in write_report(samples.hostile_result(), tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_one_clear_line(samples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerfguardError, match=r"cannot write to .*file/report.html: ") as caught:
        write_report(samples.unknown_result(), tmp_path / "file" / "report.html")
    assert caught.value.hint


def test_a_failed_write_leaves_the_old_report(samples, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render.Path, "replace", no_space)
    with pytest.raises(PerfguardError, match="No space left"):
        write_report(samples.unknown_result(), path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
