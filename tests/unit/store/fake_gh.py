"""A `gh` that keeps issues in a file, writes down every call, and fails where it is told to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

PLACE = Path(os.environ["FAKE_GH"])


def issue_list(state, given):
    found = [each for each in state["issues"] if given.label in each["labels"]]
    return json.dumps([{key: each[key] for key in given.json.split(",")} for each in found])


def issue_create(state, given):
    if given.label not in state["labels"]:
        sys.exit(f"could not add label: '{given.label}' not found")
    number = 1 + len(state["issues"])
    text = {"number": number, "title": given.title, "body": body(given)}
    state["issues"].append({**text, "state": "OPEN", "labels": [given.label], "comments": []})
    return f"https://github.com/{given.repo}/issues/{number}"


def body(given):
    return Path(given.body_file).read_text()


def issue(state, given):
    return next(each for each in state["issues"] if str(each["number"]) == given.what)


VERBS = {
    "issue list": issue_list,
    "issue create": issue_create,
    "issue view": lambda state, given: json.dumps(
        {"comments": [{"body": each} for each in issue(state, given)["comments"]]}
    ),
    "issue comment": lambda state, given: issue(state, given)["comments"].append(body(given)),
    "issue edit": lambda state, given: issue(state, given).update(title=given.title, body=body(given)),
    "issue close": lambda state, given: issue(state, given).update(state="CLOSED"),
    "issue reopen": lambda state, given: issue(state, given).update(state="OPEN"),
    "label list": lambda state, _given: json.dumps([{"name": each} for each in state["labels"]]),
    "label create": lambda state, given: state["labels"].append(given.what),
}


def main():
    state = json.loads(PLACE.read_text())
    words = sys.argv[1:]
    verb = " ".join(words[:2])
    state["calls"].append(words)
    fails = state["fail"].get(verb, 0)
    state["fail"][verb] = max(0, fails - 1)
    PLACE.write_text(json.dumps(state))
    if not os.environ.get("GH_TOKEN"):
        sys.exit("To get started with GitHub CLI, please run:  gh auth login")
    if fails:
        sys.exit("HTTP 502: Bad Gateway (https://api.example.org/graphql)")
    parser = argparse.ArgumentParser()
    for option in ("repo", "title", "body-file", "label", "state", "limit", "json", "reason", "description"):
        parser.add_argument(f"--{option}")
    parser.add_argument("what", nargs="?")
    sys.stdout.write((VERBS[verb](state, parser.parse_args(words[2:])) or "") + "\n")
    PLACE.write_text(json.dumps(state))


if __name__ == "__main__":
    main()
