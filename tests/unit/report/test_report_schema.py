from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from perfguard.model.result import SCHEMA_VERSION
from perfguard.report.jsonable import to_json_document

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "result-schema.json").read_text(encoding="utf-8"))
EVERY = ["bisect", "no_change", "unknown", "compare", "run", "hostile", "fixed", "conflicting"]


def check(document):
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", EVERY)
def test_every_document_follows_the_schema(samples, name, tmp_path):
    document = to_json_document(getattr(samples, f"{name}_result")(), tmp_path / "report.html")
    check(json.loads(json.dumps(document, allow_nan=False)))


def test_the_version_is_the_model_s():
    versions = {SCHEMA["$defs"][kind]["properties"]["schema_version"]["const"] for kind in ("bisect", "compare", "run")}
    assert versions == {SCHEMA_VERSION}


@pytest.mark.parametrize("key", ["verdict", "effects", "grown_frames", "environment", "schema_version"])
def test_a_missing_key_is_noticed(samples, key):
    document = to_json_document(samples.compare_result(), None)
    del document[key]
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_an_unknown_key_is_noticed(samples):
    document = to_json_document(samples.compare_result(), None)
    document["grown_frames"][0]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_every_key_says_what_it_means():
    def walk(node, place):
        for name, value in node.get("properties", {}).items():
            assert "description" in value or "$ref" in value, (place, name)
        for name, value in node.get("$defs", {}).items():
            assert value["description"], name
            walk(value, name)

    walk(SCHEMA, "document")
