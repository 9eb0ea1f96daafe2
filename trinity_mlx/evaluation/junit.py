"""An evaluation as a JUnit file, the form that continuous integration shows."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from ..files.atomic import write_file
from .results import Evaluation, Status

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(evaluation: Evaluation) -> bytes:
    """One ``testsuite`` with a ``testcase`` for each case; reported failures stand in ``system-out``."""
    lane = f"{evaluation.environment['profile']}.{evaluation.environment['artifact']}"
    failures = sum(result.status is Status.FAIL for result in evaluation.results)
    suite = ET.Element(
        "testsuite",
        name=_clean(f"{evaluation.suite.name} on {lane}"),
        tests=str(len(evaluation.results)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=f"{evaluation.elapsed_s:.3f}",
    )
    for result in evaluation.results:
        milliseconds = result.decision.timings.route if result.decision else 0.0
        case = ET.SubElement(
            suite, "testcase", classname=_clean(lane), name=_clean(result.case.id), time=f"{milliseconds / 1000:.6f}"
        )
        text = _clean("\n".join(result.reasons))
        if result.status is Status.FAIL:
            ET.SubElement(case, "failure", message=text.partition("\n")[0]).text = text
        elif text:
            ET.SubElement(case, "system-out").text = text
    ET.indent(suite)
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def write_junit(path: Path, evaluation: Evaluation) -> None:
    """Write the file, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    write_file(path, render_junit(evaluation))


def _clean(text: str) -> str:
    """``text`` without the characters that XML has no form for."""
    return _NOT_XML.sub("\ufffd", text)
