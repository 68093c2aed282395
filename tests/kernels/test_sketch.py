"""The histograms of units against counting by definition, and their quantiles against sorting everything."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.errors import UsageError
from onnxvis.kernels.sketch import LARGEST, SMALLEST, Sketch, mantissa_bits

ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, SMALLEST, -SMALLEST, SMALLEST / 2, LARGEST, -LARGEST, LARGEST * 0.999, 1.0]


def values_of(rng, shape, spread):
    """Activations of any size and sign, with the odd ones among them."""
    values = (rng.standard_normal(shape) * 2.0 ** rng.uniform(-spread, spread, shape)).astype(np.float32)
    odd = rng.random(shape) < 0.2
    values[odd] = rng.choice(np.array(ODD, np.float32), int(odd.sum()))
    return values


def bucket(value, mantissa):
    """The bucket of one number by definition: sign, exponent, and the first bits of the mantissa."""
    if math.isnan(value):
        return "nan"
    if abs(value) < SMALLEST:
        return "zero"
    if abs(value) >= LARGEST:
        return "over" if value > 0 else "under"
    fraction, exponent = math.frexp(abs(value))
    return math.copysign(1, value), exponent, math.floor((2 * fraction - 1) * 2**mantissa)


def contents(sketch):
    """``{bucket: count}`` for each unit, read back from the plain arrays."""
    state, found = sketch.state(), []
    for unit in range(sketch.units):
        counts = Counter({name: int(state[name][unit]) for name in ("nan", "zero", "over", "under")})
        for name, sign in (("positive", 1.0), ("negative", -1.0)):
            for place, count in enumerate(state[name][unit]):
                pattern = (int(state[f"{name}_first"]) + place) << (23 - sketch.mantissa)
                edge = float(np.int32(pattern).view(np.float32))
                counts[bucket(sign * edge, sketch.mantissa)] += int(count)
        found.append(+counts)
    return found


def assert_same(a, b):
    left, right = a.state(), b.state()
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        assert left[name].tobytes() == right[name].tobytes(), name


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 7), units=st.integers(1, 4), places=st.integers(1, 9), spread=st.sampled_from([0, 3, 30]),
    accuracy=st.sampled_from([0.3, 0.05, 0.01, 0.001]), seed=st.integers(0, 2**32 - 1), data=st.data(),
)  # fmt: skip
def test_counts_by_definition_whatever_the_kernel_and_the_split(n, units, places, spread, accuracy, seed, data):
    values = values_of(np.random.default_rng(seed), (n, units, places), spread)
    whole = Sketch(units, accuracy)
    whole.add(values, compiled=False)
    slow = [Counter(bucket(float(v), whole.mantissa) for v in values[:, unit].ravel()) for unit in range(units)]
    assert contents(whole) == slow
    compiled = Sketch(units, accuracy)
    compiled.add(values, compiled=True)
    assert_same(whole, compiled)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
        part = Sketch(units, accuracy)
        part.add(values[start:stop], compiled=bool(start % 2))
        parts.append(Sketch.from_state(part.state()))
    merged = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
    for place in data.draw(st.permutations(range(len(parts)))):
        merged.merge(parts[place])
    assert_same(whole, merged)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60), accuracy=st.sampled_from([0.3, 0.01, 0.001]), q=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_quantiles_are_within_the_stated_relative_error(count, accuracy, q, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((1, 3, count)) * 2.0 ** rng.uniform(-9, 9, (1, 3, count))).astype(np.float32)
    sketch = Sketch(3, accuracy)
    sketch.add(values)
    exact = np.sort(values[0].astype(np.float64), axis=1)[:, math.floor(q * (count - 1))]
    assert sketch.relative_error <= accuracy
    np.testing.assert_allclose(sketch.quantile(q), exact, rtol=sketch.relative_error * (1 + 1e-6))
    np.testing.assert_array_equal(sketch.quantile(0), values[0].min(axis=1))
    np.testing.assert_array_equal(sketch.quantile(1), values[0].max(axis=1))


def test_what_is_not_counted_is_said():
    sketch = Sketch(3)
    sketch.add(np.array([[[np.nan, np.inf, 1.0], [0, -0.0, 1e-9], [np.nan] * 3]], np.float32))
    np.testing.assert_array_equal(sketch.nan, [1, 0, 3])
    np.testing.assert_array_equal(sketch.over, [1, 0, 0])
    np.testing.assert_array_equal(sketch.zero, [0, 3, 0])
    np.testing.assert_array_equal(sketch.count, [2, 3, 0])
    np.testing.assert_allclose(sketch.quantile(0.4), [1.0, 0.0, np.nan], rtol=0.008)
    np.testing.assert_array_equal(sketch.quantile(1), np.array([np.inf, 1e-9, np.nan], np.float32))


def test_negative_and_large_values():
    sketch = Sketch(1)
    sketch.add(np.array([[[-3e6, -2.0, -1e-3, 0.0, 5.0, 7e6, 9e6]]], np.float32))
    found = [float(sketch.quantile(q / 6)[0]) for q in range(7)]
    np.testing.assert_allclose(found[:5], [-3e6, -2.0, -1e-3, 0, 5.0], rtol=sketch.relative_error * (1 + 1e-6))
    assert found[5:] == [9e6, 9e6]  # beyond LARGEST values are not told apart


def test_bits_for_an_accuracy():
    assert [mantissa_bits(a) for a in (1 / 3, 0.2, 0.01, 0.0078, 0.001)] == [0, 1, 6, 6, 9]


def test_refuses():
    with pytest.raises(UsageError, match="at least one unit"):
        Sketch(0)
    for accuracy in (0, 0.5, 1e-5, math.nan):
        with pytest.raises(UsageError, match="relative error"):
            Sketch(1, accuracy)
    sketch = Sketch(2)
    with pytest.raises(UsageError, match=r"\(N, 2"):
        sketch.add(np.zeros((1, 3, 4)))
    with pytest.raises(UsageError, match="0 to 1"):
        sketch.quantile(1.1)
    for other in (Sketch(3), Sketch(2, 0.1)):
        with pytest.raises(UsageError, match="same units"):
            sketch.merge(other)
