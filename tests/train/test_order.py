"""Which samples a step takes: the same ones for any number of processes, and for a run that goes on."""

import itertools

import numpy as np
import pytest

from ondevice.train.order import Order, Share, mixed


def test_every_epoch_takes_every_sample_once_in_an_order_of_its_own():
    order = Order(7, 3)
    epochs = [[order.at(7 * epoch + place) for place in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [Order(7, 3).at(position) for position in (20, 3, 12)] == [epochs[2][6], epochs[0][3], epochs[1][5]]
    assert [Order(7, 4).at(place) for place in range(7)] != epochs[0]


@pytest.mark.parametrize("processes, batch, micro", [(1, 6, 1), (2, 3, 1), (1, 2, 3), (3, 1, 2), (2, 1, 3)])
def test_a_step_takes_the_same_samples_whoever_takes_them(processes, batch, micro):
    shares = [Share(batch, micro, rank, processes) for rank in range(processes)]
    for step in (0, 2):
        taken = [itertools.islice(share.batches(step), micro) for share in shares]
        assert sorted(itertools.chain(*itertools.chain(*taken))) == list(range(6 * step, 6 * step + 6))
    assert {share.of_step for share in shares} == {6}
    assert [shares[0].steps_of_epoch(count) for count in (1, 6, 7)] == [1, 1, 2]


def test_a_run_that_goes_on_takes_what_an_unbroken_one_takes():
    share = Share(2, 3, 1, 2)
    whole = list(itertools.islice(share.batches(0), 12))
    assert list(itertools.islice(share.batches(2), 6)) == whole[6:]


def test_seeds_are_apart():
    found = [mixed(*numbers) for numbers in itertools.product(range(20), repeat=2)] + [mixed(1), mixed(1, 1, 1)]
    assert len({*found}) == len(found) and all(0 <= one < 2**63 for one in found)
    bits = np.array([[one >> place & 1 for place in range(63)] for one in found])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.15
