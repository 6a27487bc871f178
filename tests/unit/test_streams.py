"""Random streams: no two purposes share one; those of the trainings are what they were."""

import itertools

import numpy as np
import pytest
import torch

from support.streams import MAX_SEED, PURPOSES, batch_indices, generator


def seed_of(*key):
    """What numpy makes of a key of integers, without `generator`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def test_every_key_has_its_own_stream():
    small = range(12)
    keys = [
        (seed, purpose, *numbers)
        for seed, (purpose, count) in itertools.product((*small, MAX_SEED), PURPOSES.items())
        for numbers in itertools.product(small, repeat=count)
    ]
    assert len(keys) > 2_500
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)


@pytest.mark.parametrize("purpose, number", [("batches", 0), ("classifier", 1), ("U-Net", 2),
                                             ("judge", 3)])  # fmt: skip
@pytest.mark.parametrize("seed, step", [(0, 0), (0, 7), (3, 2_999), (MAX_SEED, 1)])
def test_the_streams_of_the_trainings_are_numbered_as_they_were(purpose, number, seed, step):
    assert generator(seed, purpose, step).initial_seed() == seed_of(seed, number, step)


def test_samples_and_batches_draw_from_their_streams():
    assert generator(5, "samples", 3, 8).initial_seed() == seed_of(5, 4, 3, 8)
    rng = torch.Generator().manual_seed(seed_of(5, 0, 1))
    assert torch.equal(
        batch_indices(20, 10, seed=5, step=3), torch.randperm(20, generator=rng)[10:]
    )


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_purpose_has_keys_of_its_own_length(purpose):
    for count in {0, 1, 2, 3} - {PURPOSES[purpose]}:
        with pytest.raises(AssertionError):
            generator(0, purpose, *[0] * count)


@pytest.mark.parametrize("key", [
    (0, "noise", 0), (0, 0, 0), (MAX_SEED + 1, "split"), (2**64, "split"), (-1, "split"),
    (0, "U-Net", MAX_SEED + 1), (0, "U-Net", -1),
])  # fmt: skip
def test_other_keys_are_refused(key):
    with pytest.raises((AssertionError, ValueError)):
        generator(*key)
