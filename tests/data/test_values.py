"""Ids, ratings, texts and times in the forms that files give them."""

import datetime
import uuid
from decimal import Decimal

import pytest

from loid_infer.data.dates import Dates
from loid_infer.data.values import MISSING, clean_id, id_form, to_rating, to_seconds, to_text
from loid_infer.errors import BadTable


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("u1", "u1"),
        (" u1", "u1"),
        ("u1\u00a0", "u1"),
        ("\ufeffu1\u200b", "u1"),
        ("u\u200b1", "u1"),
        ("a\u00a0b", "a b"),
        ("\tu 1\r", "u 1"),
        ("cafe\u0301", "caf\u00e9"),
        ("007", "007"),
        ("100.0", "100.0"),
        (7, "7"),
        (2**70, str(2**70)),
        (100.0, "100"),
        (Decimal("12.00"), "12"),
        (b"u1", "u1"),
        ({"$oid": "5f1"}, "5f1"),
        ({"$numberLong": "7"}, "7"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    ],
)
def test_ids_are_cleaned(value, expected):
    assert clean_id("user", value) == expected


@pytest.mark.parametrize("value", [*sorted(MISSING), " nan ", "\u200b", None, float("nan")])
def test_missing_ids_are_refused(value):
    with pytest.raises(BadTable, match="the user is missing or empty"):
        clean_id("user", value)


@pytest.mark.parametrize("value", [1.5, 2.0**60, True, [1], {"oid": "x"}, Decimal("1.5"), b"\xff"])
def test_values_that_are_no_ids_are_refused(value):
    with pytest.raises(BadTable, match=r"not an id|not UTF-8"):
        clean_id("user", value)


@pytest.mark.parametrize("text", ["Nat", "Null Island", "nano", "NAN0", "0", "-"])
def test_ids_and_texts_that_resemble_missing_ones_are_kept(text):
    assert clean_id("user", text) == to_text(text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("&#34;a&#x41;&amp;&nbsp;b&quot;", '"aA&\xa0b"'),
        ("http://x.org/?a=1&copy=2&lt=3&reg", "http://x.org/?a=1&copy=2&lt=3&reg"),
        ("AT&T; R&D", "AT&T; R&D"),
        ("&regional; &copyfoo; &copy;", "&regional; &copyfoo; ©"),
        (None, ""),
        (float("nan"), ""),
        ("\\N", ""),
        (" null ", ""),
        ("  ", "  "),
        (b"caf\xc3\xa9", "café"),
        (10, "10"),
        ("null and void", "null and void"),
    ],
)
def test_texts(value, expected):
    assert to_text(value) == expected


@pytest.mark.parametrize("value", [5, 5.0, "5", " 5.0 ", Decimal(5), "5e0", {"$numberInt": "5"}])
def test_ratings(value):
    assert to_rating(value, 1, 5) == 5


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (True, "not a number"),
        ("5_0", "not a number"),
        ("nan", "missing|not finite"),
        ("NULL", "missing"),
        (None, "missing"),
        ("inf", "not finite"),
        (5.01, "outside the range"),
        ("4,5", "decimal comma"),
    ],
)
def test_invalid_ratings(value, reason):
    with pytest.raises(BadTable, match=reason):
        to_rating(value, 1, 5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((1_393_545_600 * unit, 1_393_545_600) for unit in (1, 10**3, 10**6, 10**9)),
        *((str(1_393_545_600 * unit), 1_393_545_600) for unit in (1, 10**3, 10**6, 10**9)),
        (1.3935456e9, 1_393_545_600),
        ("1.393545600E12", 1_393_545_600),
        (1_588_687_728_923, 1_588_687_728),
        (20180707220911, 1_531_001_351),
        ("20180707220911", 1_531_001_351),
        (-86_400, -86_400),
        ("-86400.5", -86_401),
        ("2018-07-07 22:09:11", 1_531_001_351),
        ("2018-07-07T22:09:11Z", 1_531_001_351),
        ("2018-07-07T22:09:11.123456789+00:00", 1_531_001_351),
        ("2018-07-07 22:09:11 UTC", 1_531_001_351),
        ("2018-07-08 00:09:11 +0200", 1_531_001_351),
        ("2018-07-07", 1_530_921_600),
        ("2018/07/07", 1_530_921_600),
        ("Sat Jul 07 15:09:11 -0700 2018", 1_531_001_351),
        ("Sat, 07 Jul 2018 22:09:11 GMT", 1_531_001_351),
        ("Sat Jul 07 2018 15:09:11 GMT-0700 (Pacific Daylight Time)", 1_531_001_351),
        ("07 7, 2018", 1_530_921_600),
        ("July 7, 2018", 1_530_921_600),
        ("Jul 7, 2018", 1_530_921_600),
        ("7 July 2018", 1_530_921_600),
        ("7th July 2018", 1_530_921_600),
        ("07-JUL-18", 1_530_921_600),
        ("Posted July 7, 2018.", 1_530_921_600),
        ("Reviewed in the United States on July 7, 2018", 1_530_921_600),
        ("2018-7-7", 1_530_921_600),
        ("07.07.2018", 1_530_921_600),
        ("Saturday, July 7, 2018", 1_530_921_600),
        ("Sat Jul 07 22:09:11 UTC 2018", 1_531_001_351),
        ("2018-07-07 22:09:11 +0000 UTC", 1_531_001_351),
        ("2018-07-07T22:09:11Z[UTC]", 1_531_001_351),
        ("2018-07-07 10:09:11 PM", 1_531_001_351),
        ("2018/07/07T22:09:11.5Z", 1_531_001_351),
        ("2018.07.07 22:09:11", 1_531_001_351),
        ("07 Jul 2018 22:09:11", 1_531_001_351),
        ("07-Jul-2018 22:09:11", 1_531_001_351),
        ("07/Jul/2018:22:09:11 +0000", 1_531_001_351),
        ("Jul  7 2018 10:09PM", 1_531_001_340),
        ("Jul 7, 2018, 10:09:11 PM", 1_531_001_351),
        ("July 7, 2018 at 10:09 PM", 1_531_001_340),
        ("Sept 7, 2018", 1_536_278_400),
        ({"$date": "2018-07-07T22:09:11Z"}, 1_531_001_351),
        ({"$date": {"$numberLong": "1531001351923"}}, 1_531_001_351),
        ("0000-00-00 00:00:00", None),
        (datetime.date(2018, 7, 7), 1_530_921_600),
        (datetime.datetime(2018, 7, 7, 22, 9, 11, tzinfo=datetime.UTC), 1_531_001_351),
        *((value, None) for value in (None, "", " ", "NaT", "NULL", "\\N", float("nan"), "nan")),
    ],
)
def test_times_are_read_by_value(value, expected):
    dates = Dates()
    assert to_seconds(value, dates) == expected
    assert to_seconds(value, dates) == expected  # the form that is tried first now


@pytest.mark.parametrize("value", ["07/08/2013", "yesterday", "2018-13-45", True, [1], 10**21, "inf", "Posted July 3."])
def test_ambiguous_and_impossible_times_are_refused(value):
    with pytest.raises(BadTable, match=r"the timestamp is|the date may"):
        to_seconds(value, Dates())


def test_ids_of_one_form():
    assert len({id_form(text) for text in ("100", "0100", "100.0", '"100"', " 100", "100.000")}) == 1
    assert id_form("Ab") == id_form("aB")
    assert id_form("0") != id_form("1")
    assert id_form("A10") != id_form("A1")
