"""The questions: at most ten, each with a prompt, each option with a label."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scripts.bake import ROOT
from tests.template.conftest import ANSWERS, CHOICES

ALL: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))


def test_there_are_at_most_ten() -> None:
    assert len(ANSWERS) <= 10


@pytest.mark.parametrize("question", ANSWERS)
def test_a_question_has_a_prompt(question: str) -> None:
    prompt = ALL["__prompts__"][question]
    text = prompt["__prompt__"] if isinstance(prompt, dict) else prompt
    assert text.strip()


@pytest.mark.parametrize(("question", "option"), CHOICES)
def test_an_option_has_a_label(question: str, option: str) -> None:
    assert ALL["__prompts__"][question][option].startswith(option)


def test_nothing_is_prompted_that_is_not_asked() -> None:
    assert set(ALL["__prompts__"]) == set(ANSWERS)
