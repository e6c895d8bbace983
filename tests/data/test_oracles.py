"""People label CSV files: late, in other files, twice, wrongly."""

import csv
import threading
import time
from pathlib import Path

import pytest
from active_kit import ready

from lightning_priv.acquisition import Query
from lightning_priv.data import LabelFolder
from lightning_priv.data.oracles import read_labels
from lightning_priv.errors import LabelsPendingError, OracleError

IDS = (4, 9, 7)


def made(**options):
    pool = ready(initial=[0, 1], oracle=LabelFolder("labels", **options))
    pool.keep("pool.json", resume=True)
    if pool.pending is None and not pool.history:
        pool.propose(Query(1, IDS, "Test"))
    return pool


def fill(name, rows):
    with Path("labels", name).open("w", newline="") as file:
        csv.writer(file).writerows([["index", "label"], *rows])


def test_labels_come_late_and_nothing_is_lost():
    with pytest.raises(LabelsPendingError, match=r"3 of 3 .* first for index 4"):
        made().ask()
    form = Path("labels/query_4_3.csv")
    assert form.read_text() == "index,label\n4,\n9,\n7,\n"
    fill(form.name, [(4, "red"), (9, ""), (7, 2)])
    with pytest.raises(LabelsPendingError, match=r"1 of 3 .* first for index 9"):
        made().ask()
    assert "red" in form.read_text()  # what somebody filled in is not overwritten
    fill("more.csv", [(9, "1"), (50, "blue")])
    pool = made()
    pool.accept(pool.ask())
    assert pool.state.labels == {4: 0, 9: 1, 7: 2}
    assert made().pending is None


def test_waiting_for_people():
    def later():
        time.sleep(0.05)
        fill("query_4_3.csv", [(i, 0) for i in IDS])

    Path("labels").mkdir()
    thread = threading.Thread(target=later)
    thread.start()
    pool = made(wait=30, poll=0.01)
    assert pool.ask() == [0, 0, 0]
    thread.join()


def test_the_same_answer_twice_and_two_answers():
    Path("labels").mkdir()
    fill("a.csv", [(i, 1) for i in IDS])
    fill("b.csv", [(4, 1)])
    assert made().ask() == [1, 1, 1]
    fill("b.csv", [(4, 2)])
    with pytest.raises(OracleError, match=r"index 4 is labelled '1' in labels/a\.csv and '2'"):
        made().ask()
    assert made().pending is not None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,class\n4,1\n", "has the columns id, class"),
        ("index,label\nfour,1\n", "has the index 'four'"),
        ("index,label\n4,violet\n9,0\n7,0\n", "labels index 4 'violet'"),
    ],
)
def test_files_that_are_not_understood(text, error):
    Path("labels").mkdir()
    Path("labels/x.csv").write_text(text)
    with pytest.raises(OracleError, match=error):
        made().ask()


def test_a_folder_of_another_run():
    Path("labels").mkdir()
    fill("query_4_3.csv", [(4, ""), (5, ""), (6, "")])
    with pytest.raises(OracleError, match="belongs to another run"):
        made().ask()


def test_arguments():
    with pytest.raises(ValueError, match="poll above 0"):
        LabelFolder("labels", poll=0)


def test_a_file_that_somebody_begins_to_write_has_no_labels_yet(tmp_path):
    (tmp_path / "new.csv").write_text("")
    assert read_labels(tmp_path) == {}
