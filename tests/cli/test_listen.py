"""Progress: nothing for short work, bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import io
import sys

import click
import pytest

from taskloom.cli.listen import InLog, OnTerminal, listening
from taskloom.progress import silent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


class TestInLog:
    def test_short_work_says_nothing(self, clock):
        stream = io.StringIO()
        listener = InLog(stream, clock)
        for step in range(10):
            clock.now = step * 0.1
            listener("merge", step, 9)
        assert stream.getvalue() == ""

    def test_long_work_says_a_line_every_ten_seconds_and_at_its_end(self, clock):
        stream = io.StringIO()
        listener = InLog(stream, clock)
        for second in range(26):
            clock.now = second
            listener("train trec6", second, 25)
        assert stream.getvalue().splitlines() == [
            "train trec6: 10/25 (10 s)",
            "train trec6: 20/25 (20 s)",
            "train trec6: 25/25 (25 s)",
        ]

    def test_a_label_whose_amount_goes_back_begins_anew(self, clock):
        stream = io.StringIO()
        listener = InLog(stream, clock)
        for begun in (0, 100):
            for second in (0, 5, 10):
                clock.now = begun + second
                listener("test", second, 10)
        assert stream.getvalue().splitlines() == [
            "test: 10/10 (10 s)",
            "test: 0/10 (0 s)",
            "test: 10/10 (10 s)",
        ]

    def test_work_without_a_known_end(self, clock):
        stream = io.StringIO()
        listener = InLog(stream, clock)
        listener("download", 0, None)
        clock.now = 12
        listener("download", 3.5, None)
        assert stream.getvalue() == "download: 3.5 (12 s)\n"

    def test_the_interval_is_shared_by_labels(self, clock):
        stream = io.StringIO()
        listener = InLog(stream, clock)
        for second in range(13):
            clock.now = second
            listener(f"task {second}", 0, 1)
        assert stream.getvalue() == "task 10: 0/1 (0 s)\n"


class TestOnTerminal:
    def test_nothing_is_drawn_before_two_seconds(self, clock, capsys):
        listener = OnTerminal(clock)
        listener("merge", 0, 10)
        clock.now = 1.9
        listener("merge", 9, 10)
        listener.close()
        assert capsys.readouterr().err == ""

    def test_bars_are_drawn_after_two_seconds(self, clock, capsys):
        listener = OnTerminal(clock)
        listener("merge [x]", 0, 10)
        clock.now = 2.5
        listener("merge [x]", 5, 10)
        listener("evaluate", 1, None)
        listener("merge [x]", 10, 10)
        listener.close()
        told = capsys.readouterr()
        assert "merge [x]" in told.err, "labels are not markup"
        assert "10/10" in told.err
        assert told.out == "", "progress goes to the standard error"


def test_quiet_listens_to_nothing():
    command = click.Command("x")
    with click.Context(command, obj={"quiet": True}), listening() as progress:
        assert progress is silent


def test_the_listener_fits_the_stream(monkeypatch):
    with listening() as progress:
        assert isinstance(progress, InLog)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with listening() as progress:
        assert isinstance(progress, OnTerminal)


def test_the_listener_is_closed_when_work_fails(monkeypatch):
    closed = []
    monkeypatch.setattr(InLog, "close", lambda _: closed.append(True))
    with pytest.raises(ValueError, match="stop"), listening():
        raise ValueError("stop")
    assert closed == [True]
