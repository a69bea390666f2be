"""Chains on whole matrices: said beforehand, one matrix at a time, other tensors by another chain."""

import threading
import time
from dataclasses import replace

import torch

from taskloom.algebra import Grain, chain, mean, scale
from taskloom.algebra.directions import flatten
from taskloom.algebra.spectral import is_matrix
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.store.pool import open_pool

from .models import run, save_pool

SHAPES = {"a": (40, 30), "b": (30, 40), "c": (20, 20), "bias": (40,), "lm_head.weight": (50, 20)}


def grouped(tmp_path, recipe):
    base, experts = save_pool(tmp_path, dtypes=(torch.float32,), shapes=SHAPES)
    pool = open_pool(base, experts)
    plan = plan_program(program_of(pool, recipe.chain), slice_bytes=400)
    return plan, {group.composition: group for group in plan.groups}


def test_the_plan_says_which_tensors_are_held_whole(tmp_path):
    plan, groups = grouped(tmp_path, Recipe.of("iso_c", skip=["lm_head"]))
    spectral, others = groups["flatten -> scale(1)"], groups["mean -> scale(1)"]
    assert (spectral.grain, spectral.tensors, spectral.whole) == ("matrix", 3, "a")
    assert (others.grain, others.tensors, others.whole) == ("element", 2, None)
    assert others.matrix == 0
    # four stacks' worth of the largest matrix at least, once whatever the number of threads
    assert spectral.matrix > 4 * 4 * 40 * 30
    one, eight = (plan.explain(threads)["memory_bytes"] for threads in (1, 8))
    assert eight - one < 7 * spectral.matrix
    assert one > spectral.matrix


def test_one_matrix_at_a_time_whatever_the_number_of_threads(tmp_path):
    inside, most, guard = [], [], threading.Lock()
    step = flatten()

    def watched(stack, statistic):
        with guard:
            inside.append(stack.name)
            most.append(len(inside))
        time.sleep(0.02)
        found = step.apply(stack, statistic)
        with guard:
            inside.remove(stack.name)
        return found

    composed = chain(
        replace(step, apply=watched), scale(1.0), otherwise=chain(mean()), only=is_matrix(())
    )
    base, experts = save_pool(tmp_path, dtypes=(torch.float32,), shapes=SHAPES)
    many = run(base, experts, composed, threads=4)
    assert max(most) == 1
    assert len(most) == 4
    assert many == run(base, experts, composed, threads=1)


def test_only_needs_otherwise_to_leave_tensors_out():
    composed = chain(flatten(), only=is_matrix(()))
    assert composed.for_tensor("bias", (3,)) is composed
    other = chain(mean())
    composed = chain(flatten(), only=is_matrix(()), otherwise=other)
    assert composed.for_tensor("bias", (3,)) is other
    assert composed.for_tensor("w", (3, 2)) is composed
    assert composed.grain == Grain.MATRIX
