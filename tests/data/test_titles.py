"""Titles, what is none, and lists of texts."""

import time

import pytest

from loid_infer.data.items import FIELDS, Items
from loid_infer.data.titles import join_words, plain_title
from loid_infer.errors import BadSetting, BadTable

MARKUP = [
    '<span class="a-size-medium a-color-secondary"',
    "<b>Bold</b>",
    "Guide <br/> Two",
    "<!-- x -->",
    "var aPageStart = (new Date()).getTime();",
    "  let x=1",
    "window.ue_ihb = 1",
    "$(document).ready(",
    "(function(f) { var x",
    "P.when('A').execute(function (A) { })",
    ".a-box-inner{background-color:#fff;}",
    "/* CSS */",
]
TITLES = [
    "I <3 You",
    "<Untitled> Sessions",
    "A < B > C",
    "Variety = Life",
    "The Function (of) Form",
    "multifunction(al) {set}",
    "#1 Dad {mug}",
    "window (3 pack)",
    "Document 2.0",
    "Let it be",
    "C++ & C#",
    "÷ 2",
    "寿司",
]


@pytest.mark.parametrize("title", MARKUP)
def test_markup_is_no_title(title):
    assert plain_title(title) == ("", True)


@pytest.mark.parametrize("title", TITLES)
def test_titles_that_look_like_markup_are_kept(title):
    assert plain_title(title) == (title, False)


@pytest.mark.parametrize("title", ["", "-", "!!! ...", "★"])
def test_a_title_without_letters_and_digits_is_none(title):
    assert plain_title(title) == ("", False)


@pytest.mark.parametrize("text", ["<", "function(", "function ", "var x", "#a", "#a{", "{a:", "a" * 10, "<a", "$("])
def test_a_title_of_a_million_characters_takes_no_time(text):
    start = time.process_time()
    plain_title(text * (1_000_000 // len(text)))
    assert time.process_time() - start < 2


def test_lists_are_joined():
    assert join_words("category", [["Games", "PC"], ["Games", None, "A &amp; B"]], " | ") == "Games | PC | A & B"
    assert join_words("category", "Drama|Film-Noir | Drama", " | ") == "Drama | Film-Noir"
    assert join_words("description", ["one\n two", "", "three"]) == "one two three"
    assert (join_words("brand", None), join_words("brand", "None"), join_words("brand", 7)) == ("", "", "7")
    with pytest.raises(BadTable, match="the brand is not text"):
        join_words("brand", {"a": 1})


def items():
    return Items(["a", "b", "c"], ["T {x}", "", ""], ["B", "B", ""], ["", "", "C"], ["", "D", ""], "0")


def test_texts_follow_the_template():
    assert items().texts("{title}; ") == ["T {x}; ", "", ""]
    assert items().texts("{title} by {brand}{{}}") == ["T {x} by B{}", " by B{}", ""]
    assert items().texts("{category}{description}") == ["", "D", "C"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{price}", "unknown field"),
        ("{}", "unknown field"),
        ("{item_id}", "unknown field"),
        ("{title.__class__}", "unknown field"),
        ("{title[0]}", "unknown field"),
        ("{title!r}", "unknown field"),
        ("{title:>10}", "unknown field"),
        ("{title", "not a template"),
        ("title}", "not a template"),
        ("title", "without a field"),
        ("", "without a field"),
    ],
)
def test_other_templates_are_refused(template, reason):
    with pytest.raises(BadSetting, match=reason) as caught:
        items().texts(template)
    assert all(f"{{{name}}}" in str(caught.value) for name in FIELDS)
