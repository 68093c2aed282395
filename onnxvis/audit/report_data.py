"""The numbers of an audit over all its pictures: accuracy, metrics with intervals, agreement, and what limits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxvis.audit.metrics import get_metric, summarize
from onnxvis.audit.report_unit import CONTROL
from onnxvis.audit.report_words import counted
from onnxvis.audit.selection import Item
from onnxvis.methods import get_method

__all__ = ["accuracy", "agreement_table", "confidence", "describe_methods", "limits", "metric_table", "without_times"]

_TIMES = ("times", "seconds", "forecast_seconds")
_MOST_WRONG = 1000


def without_times(data: Any) -> Any:
    """The same data without anything that says when or how fast: two runs of one audit are equal in the rest."""
    if isinstance(data, Mapping):
        return {k: without_times(v) for k, v in data.items() if k not in _TIMES}
    if isinstance(data, list):
        return [without_times(v) for v in data]
    return data


def confidence(answer: Mapping[str, Any]) -> float:
    """Probability of the predicted class, or its logit where the model has no probability."""
    first = answer["prediction"]["top"][0]
    return float(first["logit"] if first["probability"] is None else first["probability"])


def accuracy(
    items: Sequence[Item], answers: Mapping[str, Mapping[str, Any]], labels: Mapping[int, str]
) -> dict[str, Any] | None:
    """How often the model is right, over all labelled pictures that it could answer; ``None`` without labels.

    Args:
        items: all pictures.
        answers: by path.
        labels: name of each class that occurs as a truth.
    """
    rows = [(i, answers[i.path]["prediction"]["top"]) for i in items if i.truth is not None and _ok(answers[i.path])]
    if not rows:
        return None
    first = [float(top[0]["index"] == item.truth) for item, top in rows]
    five = [float(item.truth in [c["index"] for c in top]) for item, top in rows]
    wrong = [
        {
            "path": item.path,
            "truth": {"index": item.truth, "label": labels[item.truth]},
            "predicted": top[0],
            "rank_of_truth": next((k for k, c in enumerate(top, 1) if c["index"] == item.truth), None),
        }
        for (item, top), hit in zip(rows, first, strict=True)
        if not hit and item.truth is not None
    ]
    classes: dict[int, list[float]] = {}
    for (item, _), hit in zip(rows, first, strict=True):
        if item.truth is not None:
            classes.setdefault(item.truth, []).append(hit)
    pairs = Counter((w["truth"]["label"], w["predicted"]["label"]) for w in wrong)
    return {
        "labelled": len(rows),
        "top1": _summary(first, rate=True),
        "top5": _summary(five, rate=True),
        "classes": [
            {"index": k, "label": labels[k], "right": int(sum(hits)), "pictures": len(hits)}
            for k, hits in sorted(classes.items())
        ],
        "confusions": [{"truth": a, "predicted": b, "pictures": n} for (a, b), n in pairs.most_common(20)],
        "misclassified": wrong[:_MOST_WRONG],
        "misclassified_in_all": len(wrong),
    }


def _ok(answer: Mapping[str, Any]) -> bool:
    return "error" not in answer


def _summary(values: Iterable[float | None], rate: bool | None = None) -> dict[str, Any]:
    found = summarize(list(values), rate=rate)
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n, "interval": found.method}


def metric_table(entries: Iterable[Mapping[str, Any]], methods: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    """For each metric: what it is, and mean and interval of each method over the pictures (first target of each)."""
    values: dict[tuple[str, str], list[float | None]] = {}
    notes: dict[tuple[str, str], Counter[str]] = {}
    curves: dict[tuple[str, str], list[Any]] = {}
    gains: dict[tuple[str, str], list[float | None]] = {}
    for entry in entries:
        chance: Mapping[str, Any] = next((row["values"] for row in entry["metrics"] if row["method"] == CONTROL), {})
        for row in entry["metrics"]:
            for name, found in row["values"].items() if row["target"] == 0 else ():
                key = (name, row["method"])
                values.setdefault(key, []).append(found["value"])
                gains.setdefault(key, []).append(_difference(found, chance.get(name)))
                if found["value"] is None and found.get("note"):
                    notes.setdefault(key, Counter())[found["note"]] += 1
                curves.setdefault(key, []).append(found.get("curve"))
    table = []
    for name in metrics:
        rows = []
        for method in [*methods, CONTROL]:
            key = (name, method)
            if key not in values:
                continue
            missing = notes.get(key, Counter())
            rows.append(
                {
                    "method": method,
                    **_summary(values[key], rate=True if get_metric(name).rate else None),
                    "missing": [{"reason": reason, "pictures": n} for reason, n in missing.most_common(3)],
                    "curve": _mean_curve(curves[key]),
                    "above_noise": _gain(gains[key]) if method != CONTROL else None,
                }
            )
        table.append({**get_metric(name).to_dict(), "methods": rows})
    return table


def _difference(found: Mapping[str, Any], chance: Mapping[str, Any] | None) -> float | None:
    """How far a value lies above that of the map of noise on the same picture."""
    if chance is None or found["value"] is None or chance["value"] is None:
        return None
    return float(found["value"] - chance["value"])


def _gain(differences: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean difference from noise over pictures, with its interval: pictures differ far more than maps do."""
    found = _summary(differences, rate=False)
    return found if found["n"] else None


def _mean_curve(curves: Sequence[Any]) -> list[list[float]] | None:
    """Point by point, over the pictures whose curve has the usual number of points."""
    kept = [c for c in curves if c]
    if not kept:
        return None
    length = Counter(len(c) for c in kept).most_common(1)[0][0]
    same = [c for c in kept if len(c) == length]
    return [
        [round(sum(c[k][0] for c in same) / len(same), 5), round(sum(c[k][1] for c in same) / len(same), 6)]
        for k in range(length)
    ]


def agreement_table(entries: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any] | None:
    """Mean rank correlation of the maps of every two methods, with its interval."""
    values: dict[tuple[str, str], list[float | None]] = {}
    for entry in entries:
        found = entry["agreement"]
        if found is None:
            continue
        for i, a in enumerate(found["methods"]):
            for j, b in enumerate(found["methods"]):
                values.setdefault((a, b), []).append(found["matrix"][i][j])
    if not values:
        return None
    rows = [[_summary(values.get((a, b), [])) for b in methods] for a in methods]
    return {"methods": list(methods), "matrix": rows, "measure": "Spearman's rank correlation of the drawn maps"}


def describe_methods(names: Sequence[str]) -> list[dict[str, Any]]:
    """What each method is, in its own words."""
    found = [get_method(name) for name in names]
    return [
        {"name": m.name, "title": m.title, "summary": m.summary, "paper": m.paper, "caution": m.caution,
         "uses_gradient": m.needs_gradient}
        for m in found
    ]  # fmt: skip


def limits(data: Mapping[str, Any]) -> list[str]:
    """What this audit does not show, one sentence each."""
    said = []
    model, settings, pictures = data["model"], data["settings"], data["pictures"]
    spec = model["preprocessing"]
    if spec is not None:
        said.append(
            f"Pictures were prepared as stated by: {spec['source']}. Whether production prepares them in the same way "
            "cannot be seen from the model file."
        )
    if data["accuracy"] is None:
        said.append(f"Whether the answers are right was not judged, for want of labels ({pictures['truth']}).")
    said.append(
        "Maps explain the score before softmax or sigmoid (the logit), of the file as it is deployed, on these "
        "pictures. They do not show how the model behaves on other data."
    )
    if data["metrics"] and not settings["full"]:
        said.append("Metrics were measured for the first target of each picture only (--full measures all).")
    if data["metrics"] and not any(m["needs_mask"] for m in data["metrics"]):
        said.append("Nobody said where the objects are, so no metric of localization was measured.")
    said += _about_objects(pictures)
    checked = data["checks"]
    if checked:
        number = counted(len(checked["pictures"]), "picture")
        said.append(
            f"Self-tests ran on {number}, with the options of this report; they can find a "
            "fault, they cannot prove that there is none."
        )
    if model["precision"] != "float32":
        said.append(
            f"The file computes in {model['precision']}: gradients are those of its float32 twin, and no finite "
            "difference can check them."
        )
    if pictures["failed"]:
        said.append(f"{counted(len(pictures['failed']), 'picture')} could not be used; the reason is listed.")
    if pictures["chosen"] < pictures["given"]:
        said.append(f"Shown are {pictures['selection']}; metrics are means over the shown ones.")
    return said


def _about_objects(pictures: Mapping[str, Any]) -> list[str]:
    stated = pictures.get("objects")
    if stated is None:
        return []
    said = [
        f"Where the objects are is stated by {stated['source']} for {stated['pictures']} of {pictures['given']} "
        "pictures. A model may rest on something outside of the object: metrics of localization judge model and map "
        "together."
    ]
    if stated["unused"]:
        lost = counted(len(stated["unused"]), "name")
        said.append(f"{lost} in {stated['source']} that no picture has, such as {stated['unused'][0]}.")
    return said
