"""Memory is given back after a block, also one that fails, and where there is nothing to call."""

import pytest

from taskloom.merging import allocator
from taskloom.merging.allocator import giving_back


@pytest.mark.parametrize("fails", [False, True])
def test_after_the_block(monkeypatch, fails):
    called = []
    monkeypatch.setattr(allocator, "_trim", lambda: called.append)
    if fails:
        with pytest.raises(KeyError), giving_back():
            raise KeyError
    else:
        with giving_back():
            assert not called
    assert called == [0]


def test_other_systems_keep_it(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator._trim.__wrapped__() is None
    monkeypatch.setattr(allocator, "_trim", lambda: None)
    with giving_back():
        pass
