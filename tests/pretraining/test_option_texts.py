from __future__ import annotations

from argparse import ArgumentParser

import pytest

from fusion3d.errors import ConfigError
from fusion3d.pretraining.command import main
from fusion3d.pretraining.option_texts import describe_options, parameter_texts


class Oven:
    """Bakes.

    Parameters
    ----------
    heat, rise : degrees, at most
        70 % of the limit
    bread : its kind

    Attributes
    ----------
    door : open or not
    """


def test_texts_of_parameters_alone_with_their_further_lines():
    text = "degrees, at most 70 % of the limit"
    assert parameter_texts(Oven) == {"heat": text, "rise": text, "bread": "its kind"}
    assert parameter_texts(type("Bare", (), {})) == {}


def test_only_options_of_that_name_are_described():
    parser = ArgumentParser()
    actions = [parser.add_argument(name, help="as it was") for name in ("--oven.bread", "--bread", "--oven.door")]
    describe_options(parser, {"oven": Oven})
    assert [action.help for action in actions] == ["its kind", "as it was", "as it was"]


def test_help_says_what_options_do_and_which_are_short(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "warm-up and then a cosine down to 1 % (" in text
    assert "--memory-budget for --model.memory_budget" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.store", "x", "--memory-budget"], "--model.memory_budget"),
        (["--data.store", "x", "--no-such-option", "1"], "--no-such-option"),
        (["--data.store", "x", "--model.pairs", "many"], "model.pairs"),
        ([], "data.store"),
    ],
)
def test_wrong_options_are_one_line_that_names_them(arguments, named, capsys):
    with pytest.raises(ConfigError, match=named) as found:
        main(arguments)
    assert "\n" not in str(found.value)
    assert not capsys.readouterr().err
