"""The command itself: help that answers at once, one line per error, exit codes that mean something."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module

import click
import pytest

import taskloom
from taskloom import errors
from taskloom.cli.main import VERBS, main
from taskloom.cli.main import taskloom as group

COMMAND = [sys.executable, "-m", "taskloom.cli.main"]
HEAVY = ("torch", "numpy", "pydantic", "rich", "yaml", "transformers", "safetensors")


def run_process(*words, **options):
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, **options)


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_unless_told_otherwise(monkeypatch, given, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # restored afterwards, whatever main sets
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == expected


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["merge", "--help"]])
def test_help_imports_nothing_heavy(words):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "taskloom.cli.main", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert {name.split(".")[0] for name in imported}.isdisjoint(HEAVY)


def test_help_answers_within_three_tenths_of_a_second():
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        run_process("--help", check=True)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.3


def test_help_lists_every_verb(cli):
    told = cli("--help")
    assert told.status == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", told.out, re.M)


def test_the_package_is_the_command(cli):
    done = subprocess.run(
        [sys.executable, "-m", "taskloom", "merg"], capture_output=True, text=True, check=False
    )
    told = cli("merg")
    assert (done.returncode, done.stdout, done.stderr) == (told.status, told.out, told.err)
    assert "no verb 'merg'" in told.err


def test_no_words_at_all_shows_the_help(cli):
    told = cli()
    assert "Verbs:" in told.out + told.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_module_with_its_name_and_an_example(verb, cli):
    command = import_module(f"taskloom.cli.{verb}").command
    assert isinstance(command, click.Command)
    assert command.name == verb
    told = cli(verb, "--help")
    assert told.status == 0
    assert f"taskloom {verb}" in told.out.split("Example:")[1]
    assert "--json" in told.out


@pytest.mark.parametrize("verb", VERBS)
def test_the_one_line_of_a_verb_starts_its_own_help(verb):
    """The table repeats what the docstrings say, so that --help needs no import."""
    told = import_module(f"taskloom.cli.{verb}").command.help
    assert told.split()[0] == VERBS[verb].split()[0]


def test_examples_parse():
    """What the help shows can be typed: every option of an example exists."""
    for verb in VERBS:
        command = import_module(f"taskloom.cli.{verb}").command
        shown = command.epilog.split("Example:")[1].split("\n\n")[0].replace("\\\n", " ")
        for words in (line.split() for line in shown.splitlines() if line.strip()):
            asked = command.commands[words[2]] if hasattr(command, "commands") else command
            known = {option for parameter in asked.params for option in parameter.opts}
            assert [word for word in words if word.startswith("-") and word not in known] == []


def test_unknown_verb_offers_the_nearest(cli):
    told = cli("merg")
    assert told.status == 2
    assert told.err.startswith("error: no verb 'merg': did you mean 'merge'?")
    assert told.err.count("\n") == 1


def test_unknown_option_is_one_line_and_names_the_help(cli):
    told = cli("methods", "--jsn")
    assert told.status == 2
    assert told.err.count("\n") == 1
    assert "'--jsn'" in told.err
    assert "taskloom methods --help" in told.err
    assert told.out == ""


ALL_ERRORS = [
    errors.PlanError("it is wrong", hint="Mend it"),
    errors.UnknownName("task", "trec", ["trec6"]),
    errors.CheckpointError("it is wrong"),
    errors.DataError("it is wrong"),
    errors.SourceUnreachable("it is wrong"),
    errors.IntegrityError("it is wrong"),
    errors.OutputError("it is wrong"),
    errors.MissingExtra("peft", "adapters", purpose="LoRA"),
    errors.NumericalError("it is wrong"),
]


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)
def test_library_errors_become_one_line_and_their_exit_code(error, cli, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(taskloom, "methods", fail)
    told = cli("methods", "--json")
    assert told == type(told)(error.exit_code, "", f"error: {error}\n")
    assert error.exit_code not in (0, 70, 130, 141)


def test_a_message_of_several_lines_is_folded_into_one(cli, monkeypatch):
    def fail(*_):
        raise errors.DataError("first\nsecond\n   third")

    monkeypatch.setattr(taskloom, "methods", fail)
    assert cli("methods").err == "error: first second third\n"


def test_an_unexpected_error_is_called_a_fault_of_ours(cli, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(taskloom, "methods", fail)
    told = cli("methods")
    assert told.status == 70
    assert told.err.startswith("error: unexpected ZeroDivisionError: division by zero")
    assert "--debug" in told.err
    assert told.err.count("\n") == 1


def test_debug_shows_the_traceback(cli, monkeypatch):
    def fail(*_):
        raise errors.DataError("deep down")

    monkeypatch.setattr(taskloom, "methods", fail)
    with pytest.raises(errors.DataError, match="deep down"):
        cli("--debug", "methods")


def test_debug_of_the_verb_is_not_the_global_one(cli):
    told = cli("methods", "--debug")
    assert told.status == 2


def test_traceback_reaches_the_terminal_only_with_debug():
    plain = run_process("merge", "--expert", "/nowhere", "--method", "ties", "-o", "/tmp/x")
    assert "Traceback" not in plain.stderr
    assert plain.returncode not in (0, 1)
    deep = run_process("--debug", "merge", "--expert", "/nowhere", "--method", "ties", "-o", "x")
    assert "Traceback" in deep.stderr
    assert deep.returncode != 0


def test_interrupt_exits_130_with_one_line(cli, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(taskloom, "methods", interrupt)
    told = cli("methods")
    assert told.status == 130
    assert told.err.strip() == "error: interrupted"


SLEEPER = """
import sys, time, taskloom
from taskloom.cli.main import main
def sleep(*_):
    print("asleep", flush=True)
    time.sleep(60)
taskloom.methods = sleep
main(["methods"])
"""


def test_control_c_from_outside():
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "asleep\n"
        os.kill(child.pid, signal.SIGINT)
        _, err = child.communicate()  # the sleeper wakes after a minute
    assert child.returncode == 130
    assert err.strip() == "error: interrupted"


FLOOD = """
import click, taskloom
from taskloom.cli.main import main
def flood(*_):
    while True:
        click.echo("x" * 1000)
taskloom.methods = flood
main(["methods", "--json"])
"""


def test_a_closed_pipe_is_quiet():
    child = subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout.read(10) == b"x" * 10
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=20) == 141
    assert err == b""


def test_shell_completion_offers_verbs_and_options():
    def complete(words, index):
        environment = {
            **os.environ,
            "_TASKLOOM_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(index),
        }
        return run_process(env=environment).stdout

    assert "plain,merge" in complete("taskloom me", 1)
    assert "plain,--method" in complete("taskloom merge --me", 2)


def test_group_has_no_verb_that_the_table_lacks():
    context = click.Context(group)
    assert group.list_commands(context) == list(VERBS)
    assert group.get_command(context, "nothing") is None
