"""What a pass counts: any split merges to the whole, bit for bit, and the strongest places are those of sorting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxvis.behaviour.index.concepts import ConceptTally
from onnxvis.behaviour.index.tally import LayerTally, Tally
from onnxvis.behaviour.index.tally_files import TallyFolder, pack, unpack
from onnxvis.errors import OnnxvisError, OutputError, UsageError

SIZES = [(1, 1), (3, 2), (2, 3), (4, 4)]


def random_maps(rng, units, k):
    """Maps of pictures of several sizes, with many ties and some NaN."""
    found = []
    for _ in range(k):
        maps = rng.integers(-3, 4, (units, *SIZES[rng.integers(len(SIZES))])).astype(np.float32)
        maps[rng.random(maps.shape) < 0.1] = np.nan
        found.append(maps)
    return found


def tally_of(shard, numbers, maps, units, k, compiled=False):
    layer = LayerTally(units, k, 0.01, compiled=compiled)
    for number in numbers:
        layer.add(maps[number][None], np.array([number]))
    return Tally(frozenset([shard]), {"a": layer})


def assert_same(a, b):
    left, right = a.state(), b.state()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype.kind == right[name].dtype.kind
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 14), units=st.integers(1, 3), k=st.integers(1, 6), compiled=st.booleans(),
    seed=st.integers(0, 2**32 - 1), data=st.data(),
)  # fmt: skip
def test_any_split_in_any_order_merges_to_the_whole(count, units, k, compiled, seed, data):
    maps = random_maps(np.random.default_rng(seed), units, count)
    whole = tally_of(0, range(count), maps, units, k)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    runs = [range(a, b) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    whole.shards = frozenset(range(len(runs)))
    parts = [tally_of(s, run, maps, units, k, compiled) for s, run in enumerate(runs)]
    order = data.draw(st.permutations(parts))
    flat = Tally.of(Tally.from_state(part.state()) for part in order)
    assert_same(flat, whole)
    middle = data.draw(st.integers(0, len(order)))  # another bracketing of the same sum
    left, right = Tally.of(order[:middle]), Tally.of(order[middle:])
    left.merge(right)
    assert_same(left, whole)

    places = whole.layers["a"].places()
    for unit in range(units):
        best = []
        for number, map in enumerate(maps):
            spots = [(-v, number, r, c) for (r, c), v in np.ndenumerate(map[unit]) if not np.isnan(v)]
            best += sorted(spots)[:1]
        expected = sorted(best)[:k]
        found = list(zip(-places.values[unit], places.picture[unit], places.row[unit], places.col[unit], strict=True))
        assert found[: len(expected)] == expected
        assert found[len(expected) :] == [(np.inf, -1, -1, -1)] * (k - len(expected))
        numbers = np.concatenate([map[unit].ravel() for map in maps])
        assert whole.layers["a"].sketch.nan[unit] == np.isnan(numbers).sum()


def test_a_shard_counts_once():
    maps = random_maps(np.random.default_rng(0), 2, 3)
    tally = tally_of(4, range(3), maps, 2, 2)
    with pytest.raises(UsageError, match="shard 4 would be counted twice"):
        tally.merge(tally_of(4, range(3), maps, 2, 2))
    other = tally_of(5, range(3), maps, 2, 2)
    other.layers = {"b": other.layers["a"]}
    with pytest.raises(UsageError, match="same layers"):
        tally.merge(other)


def test_files_hold_what_was_written_and_damage_is_seen(tmp_path: Path):
    arrays = {
        "a": np.array([3, 70000]),
        "b": np.array([[np.nan, -0.0]], np.float32),
        "c": np.array([-5, 9]),
        "d": np.zeros(0),
    }
    data = pack(arrays)
    for name, array in unpack(data, tmp_path).items():
        np.testing.assert_array_equal(array, arrays[name])
    for damaged in (data[:-1], data[:60] + b"\0" + data[61:], b"", b"something else" * 9):
        with pytest.raises(OnnxvisError, match="damaged"):
            unpack(damaged, tmp_path)


def test_a_folder_counts_what_is_committed_and_nothing_else(tmp_path: Path):
    maps = random_maps(np.random.default_rng(1), 2, 8)
    parts = [tally_of(s, [2 * s, 2 * s + 1], maps, 2, 3) for s in range(4)]
    folder = TallyFolder(tmp_path / "t", Tally.from_state)
    assert folder.read([]) is None
    for shard in (0, 1, 3):
        folder.write(parts[shard])
    read = folder.read([0, 1])
    assert read is not None
    assert_same(read, Tally.of(parts[:2]))
    folder.fold(read)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == ["merged-0.tally", "shard-3.tally"]
    folder.write(parts[1])  # as an interrupted fold leaves it
    again = folder.read([0, 1, 3])
    assert again is not None
    assert again.shards == {0, 1, 3}
    folder.fold(again)
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["merged-1.tally"]
    with pytest.raises(OnnxvisError, match="does not belong to the rows"):
        folder.read([0, 1, 2, 3])
    with pytest.raises(OnnxvisError, match="does not belong to the rows"):
        folder.read([0, 1])


def test_shards_that_are_committed_at_once_count_together_or_not_at_all(tmp_path: Path):
    maps = random_maps(np.random.default_rng(1), 2, 10)
    parts = [tally_of(s, [2 * s, 2 * s + 1], maps, 2, 3) for s in range(5)]
    folder = TallyFolder(tmp_path / "t", Tally.from_state)
    folder.write(Tally.of(parts[1:4]))
    folder.write(parts[0])
    names = ["shard-0.tally", "shard-1+2+3.tally"]
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == names
    assert folder.on_disk() == {0, 1, 2, 3}
    both = folder.read([0, 1, 2, 3])
    assert both is not None
    assert_same(both, Tally.of(parts[:4]))
    alone = folder.read([0])
    assert alone is not None
    assert_same(alone, parts[0])
    with pytest.raises(OnnxvisError, match=r"does not belong to the rows beside it \(shards \[1, 2\]\)"):
        folder.read([0, 1, 2])
    folder.forget([1, 2])
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == names
    folder.forget([1, 2, 3])
    assert folder.on_disk() == {0}
    folder.write(Tally.of(parts[1:3]))
    again = folder.read([0, 1, 2])
    assert again is not None
    folder.fold(again)
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["merged-0.tally"]


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxvis.behaviour.index.tally_files.write_atomic", full)
    folder = TallyFolder(tmp_path / "t", Tally.from_state)
    with pytest.raises(OutputError, match=r"No space left on device.*same command again"):
        folder.write(tally_of(0, [0], random_maps(np.random.default_rng(1), 2, 1), 2, 3))
    assert list((tmp_path / "t").iterdir()) == []


def test_concept_counts_add_up():
    def part(shard, seed):
        rng = np.random.default_rng(seed)
        counts = {name: rng.integers(0, 9, shape) for name, shape in (("both", (2, 3)), ("masked", 2), ("labeled", 3))}
        counts["thresholds"] = np.array([1.0, np.inf], np.float32)
        return ConceptTally(frozenset([shard]), {"a": counts}, 3, {shard: f"map {shard} is broken"})

    one, two = part(0, 0), part(1, 1)
    both = {n: one.layers["a"][n] + two.layers["a"][n] for n in ("both", "masked", "labeled")}
    again = ConceptTally.from_state(two.state())
    again.merge(one)
    one.merge(two)
    assert_same(one, again)
    assert (one.pictures, one.errors) == (6, {0: "map 0 is broken", 1: "map 1 is broken"})
    for name, count in both.items():
        np.testing.assert_array_equal(one.layers["a"][name], count)
    with pytest.raises(UsageError, match="twice"):
        one.merge(two)
    two = part(2, 1)
    two.layers["a"]["thresholds"] = np.ones(2, np.float32)
    with pytest.raises(UsageError, match="other thresholds"):
        one.merge(two)
