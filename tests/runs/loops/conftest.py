"""Toy models are written many times over: none of them has to survive the machine."""

import pytest


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    monkeypatch.setattr("taskloom.store.atomic._sync", lambda path: None)
