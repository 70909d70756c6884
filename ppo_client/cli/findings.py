"""What a training found wrong with itself, in words."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue


def findings_in_words(data: "Mapping[str, JsonValue]") -> list[str]:
    """A sentence for each finding of a `diagnosis` event, with what to try."""
    findings = data.get("findings")
    return (
        [_in_words(finding) for finding in findings if isinstance(finding, dict)] if isinstance(findings, list) else []
    )


def settings_of(patch: "JsonValue", prefix: str = "") -> Iterator[str]:
    """A spec patch as `--set` takes it: `ppo.target_kl=0.03`; what belongs together (a schedule) as JSON."""
    if not isinstance(patch, dict):
        return
    for name, value in patch.items():
        if isinstance(value, dict) and "kind" not in value:
            yield from settings_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value, separators=(',', ':'))}"


def _in_words(finding: "Mapping[str, JsonValue]") -> str:
    settings = " ".join(f"--set '{setting}'" for setting in settings_of(finding.get("spec_patch")))
    message = str(finding.get("message") or finding.get("code"))
    return f"{message}. Try {settings}" if settings else message
