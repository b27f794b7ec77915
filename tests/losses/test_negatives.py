"""The law of the negatives: a uniform subset of the other classes' rows, for each anchor alone."""

from itertools import combinations
from math import comb

import pytest
import torch
from scipy.stats import chisquare

from kdlib.losses.negatives import NegativeSampler, uniform_subsets

LABELS = torch.tensor([2, 0, 0, 1, 7, 1, 0, 2])  # any integers, in any order


def subsets(rows):
    return [tuple(sorted(row)) for row in rows.tolist()]


@pytest.mark.parametrize(("pool", "count"), [(5, 1), (5, 3), (6, 6), (7, 5), (1, 1)])
def test_every_subset_is_equally_likely(pool, count):
    g = torch.Generator().manual_seed(0)
    drawn = subsets(uniform_subsets(torch.full((20_000,), pool), count, 9, g))
    seen = [drawn.count(subset) for subset in combinations(range(pool), count)]
    assert sum(seen) == 20_000  # sorted and distinct, within the pool
    assert len(seen) == comb(pool, count)
    assert len(seen) == 1 or chisquare(seen).pvalue > 1e-3


def test_large_subsets_are_distinct_and_inclusion_is_uniform():
    pools = torch.tensor([500, 700, 1000] * 40)
    picks = uniform_subsets(pools, 500, 1000, torch.Generator().manual_seed(1))
    ordered = picks.sort(dim=1).values
    assert (ordered.diff(dim=1) > 0).all()
    assert (ordered[:, -1] < pools).all()
    assert (ordered[:, 0] >= 0).all()
    for size in (700, 1000):  # 40 draws of half the pool or more, in bins of 100
        counts = torch.bincount(picks[pools == size].flatten() // 100)
        assert chisquare(counts.numpy()).pvalue > 1e-3


def test_anchors_draw_independently():
    """Two anchors of equal pools agree as often as two uniform subsets do."""
    picks = subsets(
        uniform_subsets(torch.full((20_000,), 4), 2, 4, torch.Generator().manual_seed(2))
    )
    agree = sum(a == b for a, b in zip(picks[::2], picks[1::2], strict=True))
    assert agree / 10_000 == pytest.approx(1 / 6, abs=0.015)


@pytest.mark.parametrize("mixed", [False, True])
def test_negatives_are_all_rows_of_other_classes_and_no_others(mixed):
    sampler = NegativeSampler(LABELS)
    for a in range(8):
        for b in range(8) if mixed else [a]:
            pool = [r for r in range(8) if LABELS[r] not in (LABELS[a], LABELS[b])]
            anchors = torch.tensor([[a, b] if mixed else [a]]).repeat(300, 1)
            drawn = sampler(anchors, min(3, len(pool)), torch.Generator().manual_seed(a))
            assert set(subsets(drawn)) == set(combinations(pool, min(3, len(pool))))


def test_a_generator_or_else_the_global_one_decides():
    sampler, anchors = NegativeSampler(torch.arange(50)), torch.arange(20)[:, None]
    a, b = (sampler(anchors, 9, torch.Generator().manual_seed(s)) for s in (3, 4))
    assert torch.equal(a, sampler(anchors, 9, torch.Generator().manual_seed(3)))
    assert not torch.equal(a, b)
    torch.manual_seed(5)
    a = sampler(anchors, 9)
    torch.manual_seed(5)
    assert torch.equal(a, sampler(anchors, 9))


@pytest.mark.parametrize(("anchors", "smallest"), [([[0]], 5), ([[0, 4]], 3)])
def test_more_than_the_smallest_pool_is_refused_with_both_numbers(anchors, smallest):
    sampler = NegativeSampler(LABELS)
    sampler(torch.tensor(anchors), smallest)
    with pytest.raises(ValueError, match=rf"num_negatives={smallest + 1} .*, {smallest}$"):
        sampler(torch.tensor(anchors), smallest + 1)
