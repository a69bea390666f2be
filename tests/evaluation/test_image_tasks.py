"""A real image task from a package registry."""

import numpy as np
import pytest

from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task


@pytest.mark.network
def test_mnist_of_a_package(cache):
    parts = [load_task(get_task("mnist").with_subset(2, part)) for part in (0, 1)]
    held = parts[0].test.open("this test")
    assert np.array_equal(held.inputs, parts[1].test.open("this test").inputs)
    images = [each for part in parts for each in (part.train.inputs, part.validation.inputs)]
    images.append(held.inputs)
    keys = [{image.tobytes() for image in each} for each in images]
    assert sum(len(each) for each in keys) == len(set.union(*keys)) == 5000
    assert all(each.shape[1:] == (32, 32, 3) and each.dtype == np.uint8 for each in images)
    assert np.bincount(held.labels).min() > 60
    assert (held.inputs[:, :2] == 0).all()  # padded
    assert held.inputs.max() == 255
