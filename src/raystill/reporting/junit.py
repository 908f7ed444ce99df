"""The gate as JUnit XML, which CI systems read: a bound is a test, missed is a failure, undecided is skipped."""

import collections
from typing import Any
from xml.etree import ElementTree

from raystill.reporting.gate import FAIL, INCONCLUSIVE


def junit(recipe: str, found: dict[str, Any]) -> str:
    """One suite, named after the recipe."""
    decisions = found["decisions"]
    counts = collections.Counter(d["verdict"] for d in decisions)
    suite = ElementTree.Element("testsuite", name=recipe, tests=str(len(decisions)), errors="0")
    suite.attrib |= {"failures": str(counts[FAIL]), "skipped": str(counts[INCONCLUSIVE])}
    for d in decisions:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{recipe}.{d['student']}", name=f"{d['key']} {d['bound']}"
        )
        said = f"{d['value']:.4g}, {d['why']}" if d["value"] is not None else d["why"]
        if d["verdict"] == FAIL:
            ElementTree.SubElement(case, "failure", message=said)
        elif d["verdict"] == INCONCLUSIVE:
            ElementTree.SubElement(case, "skipped", message=said)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
