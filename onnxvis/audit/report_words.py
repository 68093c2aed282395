"""What an audit says in words: its findings, its facts, and how strings from outside are made safe to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from onnxvis.render.scale import format_value

__all__ = [
    "LEAST_PICTURES",
    "OBJECTS",
    "TESTS",
    "Fact",
    "Finding",
    "correlation",
    "counted",
    "facts",
    "findings",
    "interval",
    "percent",
    "tiles",
    "where",
]

OBJECTS = "objects"
"""Name under which boxes or masks that cannot be used stand among the failures of a picture."""
LEAST_PICTURES = 6
"""With fewer, not even a difference of one sign on every picture is significant (sign test, 5 %, both sides)."""

_CHANCE_WORDS = {
    "better": ("good", "better than a map of noise on the same pictures"),
    "alike": ("bad", "not clearly better than a map of noise on the same pictures"),
    "worse": ("bad", "worse than a map of noise on the same pictures"),
    "few": ("note", f"not compared with a map of noise: that takes {LEAST_PICTURES} pictures at least"),
}
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "center", "right")


TESTS = {
    "answers repeat": "does the model answer the same twice?",
    "batches": "does it answer the same for pictures together as for each alone?",
    "applies": "can the method be used on this model?",
    "outputs": "does the copy of the model that is differentiated answer as the deployed file does?",
    "gradient": "is its gradient the slope that the deployed file really has?",
    "completeness": "do the parts of the map add up to what they should explain?",
    "repeatability": "is the map the same twice?",
    "other seed": "is it the same for other random numbers?",
    "input shift": "is the map unmoved when a constant is added to all pixels, and the model made to ignore it? That "
    "of a method that compares with a black or gray picture is not: what it compares with has to be chosen",
    "randomization": "does the map change when what the model has learned is taken away?",
}
"""What each self-test asks, for a reader who has not met it."""


@dataclass(frozen=True)
class Fact:
    """A line: what, its value, and a remark."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """One sentence of the summary; ``mark`` is "good", "bad" or "note"."""

    mark: str
    text: str


def percent(value: float | None) -> str:
    """A part in 0..1 as a percentage."""
    if value is None:
        return "\N{EN DASH}"
    if 0 < value < 0.0005:
        return "< 0.05 %"
    return f"{100 * value:.1f} %"


def interval(summary: Mapping[str, Any], as_percent: bool = False) -> str:
    """A mean with its 95 % interval."""
    show = percent if as_percent else format_value
    if summary["mean"] is None:
        return "\N{EN DASH}"
    if summary["low"] is None:
        return show(summary["mean"])
    return f"{show(summary['mean'])} ({show(summary['low'])} to {show(summary['high'])})"


def where(grid: Any) -> str:
    """Where a map is strongest, in words: the third of the rows and columns with the largest positive sum."""
    import numpy as np

    values = np.nan_to_num(np.maximum(grid, 0))
    if not values.any():
        return "nothing in the picture supports it"
    parts = [[values[r][:, c].sum() for c in _thirds(values.shape[1])] for r in _thirds(values.shape[0])]
    row, column = divmod(int(np.argmax(parts)), len(parts[0]))
    place = f"{_ROWS[row]} {_COLUMNS[column]}"
    return f"strongest support in the {'center' if place == 'middle center' else place}"


def _thirds(length: int) -> list[slice]:
    edges = [round(k * length / 3) for k in range(4)]
    return [slice(a, b) for a, b in pairwise(edges)]


def tiles(data: Mapping[str, Any]) -> list[Fact]:
    """The figures at the top."""
    pictures, right, tests = data["pictures"], data["accuracy"], _outcomes(data)
    found = [Fact("pictures explained", str(pictures["finished"]), f"of {pictures['given']} given")]
    if right is not None:
        top1 = right["top1"]
        found.append(
            Fact(
                "answers right",
                percent(top1["mean"]),
                f"95 % interval {percent(top1['low'])} to {percent(top1['high'])}",
            )
        )
    else:
        found.append(Fact("answers right", "not judged", "the pictures carry no labels"))
    if tests:
        decided = tests["passed"] + tests["failed"]
        found.append(Fact("self-tests passed", f"{tests['passed']} of {decided}", "of the explanations, on this model"))
    else:
        found.append(Fact("self-tests", "not run"))
    found.append(Fact("methods compared", str(len(data["methods"])), ", ".join(m["title"] for m in data["methods"])))
    return found


def _outcomes(data: Mapping[str, Any]) -> Counter[str]:
    checks = data["checks"]
    if not checks:
        return Counter()
    return Counter(test["outcome"] for test in checks["self_tests"])


def findings(data: Mapping[str, Any]) -> list[Finding]:
    """The sentences a reader takes away, most serious first within their order."""
    found: list[Finding] = []
    if data["interrupted"]:
        found.append(
            Finding("bad", f"The audit was interrupted: {data['pictures']['finished']} of {data['pictures']['chosen']} "
                    "chosen pictures are finished. The same command goes on from there.")
        )  # fmt: skip
    found += _about_answers(data)
    titles = {m["name"]: m["title"] for m in data["methods"]}
    found += _about_tests(data, titles)
    found += _against_chance(data, titles)
    for one in data["skipped"]:
        found.append(Finding("note", f"{titles.get(one['method'], one['method'])} was left out: {one['reason']}"))
    return found + _about_failures(data)


def _about_failures(data: Mapping[str, Any]) -> list[Finding]:
    problems = [one["method"] for entry in data["entries"] for one in entry["problems"]]
    objects = problems.count(OBJECTS)
    loose = sum(not one["verified"] for entry in data["entries"] for one in entry["maps"])
    named = "see Limits and failures."
    rows = [
        (loose, "map", "kept although the gradient does not agree with the deployed file: stamped as UNVERIFIED."),
        (len(problems) - objects, "map", f"not made; {named}"),
        (objects, "box or mask", f"not usable; {named}"),
        (len(data["pictures"]["failed"]), "picture", f"not usable; {named}"),
    ]
    return [Finding("bad", f"{counted(n, word)} {'was' if n == 1 else 'were'} {text}") for n, word, text in rows if n]


def correlation(value: float) -> str:
    """A correlation with the digits that mean something."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}").replace("\N{MINUS SIGN}0.00", "0.00")


def counted(number: int, word: str) -> str:
    """A number of things, in words that fit one as well."""
    plural = {"box or mask": "boxes or masks"}.get(word, f"{word}s")
    return f"{number:,} {word if number == 1 else plural}"


def _about_answers(data: Mapping[str, Any]) -> list[Finding]:
    right = data["accuracy"]
    if right is None:
        return []
    wrong = right["misclassified_in_all"]
    text = f"The model's first answer is right on {right['labelled'] - wrong} of {right['labelled']} labelled pictures"
    text += f", {interval(right['top1'], True)}; among its five first on {percent(right['top5']['mean'])}."
    if right["confusions"] and right["confusions"][0]["pictures"] > 1:
        worst = right["confusions"][0]
        text += f" Most often {worst['truth']!r} was taken for {worst['predicted']!r} ({worst['pictures']} times)."
    return [Finding("note", text)]


def _about_tests(data: Mapping[str, Any], titles: Mapping[str, str]) -> list[Finding]:
    """Every method's randomization test, which weighs most, and whatever else failed."""
    said = []
    for test in (data["checks"] or {"self_tests": []})["self_tests"]:
        name, text = str(test["method"] or ""), str(test["sentence"])
        title = titles.get(name, name)
        text = title + text[len(name) :] if name and text.startswith(name) else text
        mark = {"passed": "good", "failed": "bad"}.get(test["outcome"], "note")
        if test["name"] == "randomization":
            said.append(Finding(mark, text if text.startswith(title) else f"{title}: {text}"))
        elif mark == "bad":
            question = TESTS.get(test["name"], f"is the self-test {test['name']!r} passed?").partition("?")[0]
            said.append(Finding(mark, f"{title or 'The model'}: {question}? No: {text}"))
    return said


def _against_chance(data: Mapping[str, Any], titles: Mapping[str, str]) -> list[Finding]:
    """Is a method better than a map of noise on the same pictures?"""
    said = []
    for metric in data["metrics"]:
        sign = 1 if metric["better"] == "higher" else -1
        groups: dict[str, list[str]] = {"better": [], "worse": [], "alike": [], "few": []}
        for row in metric["methods"]:
            gain = row.get("above_noise")
            if gain is None:
                continue
            name = f"{titles[row['method']]} (by {format_value(gain['mean'], signed=True)}"
            if gain["n"] < LEAST_PICTURES:
                groups["few"].append(titles[row["method"]])
                continue
            ends = sorted(sign * gain[end] for end in ("low", "high"))
            group = "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "alike"
            name += f", 95 % interval {format_value(gain['low'], signed=True)} to "
            groups[group].append(f"{name}{format_value(gain['high'], signed=True)})")
        for group, (mark, words) in _CHANCE_WORDS.items():
            if groups[group]:
                names = groups[group]
                said.append(Finding(mark, f"{metric['title']}: {_list(names)} {_does(names)} {words}."))
    return said


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _does(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def facts(data: Mapping[str, Any]) -> list[Fact]:
    """What the model is, line by line."""
    model, env = data["model"], data["environment"]
    spec = model["preprocessing"]
    operators = ", ".join(f"{name} {count}" for name, count in list(model["operators"].items())[:12])
    more = len(model["operators"]) - 12
    size = f"{model['file_bytes'] / 1e6:.1f} MB, " if model["file_bytes"] else ""
    return [
        Fact("File", model["path"] or "(in memory)", f"SHA-256 {model['sha256']}"),
        Fact("Size", f"{size}{model['parameters']:,} numbers in {len(model['weights'])} weight tensors"),
        Fact("Made by", model["producer"], f"opset {model['opset']}, IR version {model['ir_version']}"),
        Fact("Computes in", model["precision"]),
        Fact("Input", ", ".join(model["inputs"]), f"layout {model['layout']}"),
        Fact("Output", ", ".join(model["outputs"])),
        Fact("Explained", model["explained"]["tensor"], model["explained"]["reason"]),
        Fact("Head", model["head"]["kind"], model["head"]["reason"]),
        Fact("Layers", f"{model['layers_in_all']} that compute on the picture"),
        Fact("Operators", operators + (f" and {more} more kinds" if more > 0 else "")),
        Fact("Preprocessing", spec["summary"] if spec else "none", f"stated by: {spec['source']}" if spec else ""),
        Fact("Class names", f"{model['labels']['count']}", model["labels"]["source"]),
        Fact("Pictures labelled by", data["pictures"]["truth"]),
        Fact("Ran on", env["provider"], model["provider_reason"]),
        Fact("Gradients by", env["gradients"]),
    ]
