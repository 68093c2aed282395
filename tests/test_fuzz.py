"""Damaged files: always a result or one of our errors, never a crash, a hang or another exception."""

from __future__ import annotations

import pytest
from support.fuzz import bases, mutate, run_cases


def test_mutations_are_reproducible() -> None:
    sources = bases()
    assert [mutate(i, sources) for i in range(20)] == [mutate(i, sources) for i in range(20)]
    assert any(mutate(i, sources) not in sources for i in range(20))


@pytest.mark.slow
def test_damaged_models_are_refused_clearly() -> None:
    outcomes = run_cases(0, 300)
    defects = [outcome for outcome in outcomes if outcome.kind not in ("ok", "refused")]
    assert not defects, "\n\n".join(f"case {d.case}: {d.kind}: {d.detail}" for d in defects[:5])
    assert len(outcomes) == 300
    assert sum(outcome.kind == "refused" for outcome in outcomes) > 100
