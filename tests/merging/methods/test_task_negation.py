"""Negation: card 5."""

from ..fixture import BASE, THETA1, close, merged


def test_card_5_forget_task_1():
    found = merged("task_negation", experts=[THETA1], scale=0.5)
    assert found == close([0.25, -0.0625, 0.09375, -0.125, 0.3125, -0.5])


def test_is_addition_with_the_other_sign():
    found = merged("task_negation", scale=0.7)
    assert (found == merged("task_arithmetic", scale=-0.7)).all()


def test_the_default_removes_the_whole_task_vector():
    doubled = [2 * b - t for b, t in zip(BASE, THETA1, strict=True)]
    assert merged("task_negation", experts=[THETA1]) == close(doubled)
