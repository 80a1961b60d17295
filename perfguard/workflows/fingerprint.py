"""Which machine measures: what changes speed, in words and as a short key."""

from __future__ import annotations

import hashlib
import platform

from perfguard.model.night import MachineFingerprint
from perfguard.workflows.setup import machine


def fingerprint() -> MachineFingerprint:
    """Describe this machine by what changes speed."""
    facts = dict(machine())
    kernel = ".".join(platform.release().split(".")[:2])
    python = ".".join(platform.python_version_tuple()[:2])
    memory = round(float(facts["memory_gib"]))
    described = f"{facts['cpu']}, {facts['cores']} cores, {memory} GiB, {platform.system()} {kernel}, Python {python}"
    return MachineFingerprint(key=hashlib.sha256(described.encode()).hexdigest()[:12], described=described)
