"""The judge sees each wrong that a run can do, and nothing where all went well."""

from __future__ import annotations

from pathlib import Path

import pytest
import report
from bar_20_soak import growth
from judge import Verdict, judge
from report import Figure, Row


@pytest.fixture
def judged(tmp_path):
    def judged(*lines: str, jobs: str = "a", deaths: dict[int, float] | None = None) -> Verdict:
        record = tmp_path / "record"
        record.write_text("".join(f"{line}\n" for line in lines))
        return judge(record, jobs.split(), deaths or {})

    return judged


def _wrong(verdict: Verdict) -> dict[str, int]:
    kinds = ("lost", "double", "second", "strange")
    return {kind: len(getattr(verdict, kind)) for kind in kinds if getattr(verdict, kind)}


def test_one_whole_body_is_a_commit(judged):
    verdict = judged("start a 1 7 1.0", "end a 1 7 2.0")
    assert (verdict.commits, _wrong(verdict)) == (1, {})


def test_a_body_that_died_and_ran_again_is_a_commit(judged):
    verdict = judged("start a 1 7 1.0", "start a 2 8 3.0", "end a 2 8 4.0", deaths={7: 2.0})
    assert (verdict.commits, verdict.cut_off, _wrong(verdict)) == (1, 1, {})


def test_a_body_may_run_again_whose_process_died_before_it_could_tell_of_the_end(judged):
    assert _wrong(judged("start a 1 7 1.0", "end a 1 7 2.0", "start a 2 8 4.0", "end a 2 8 5.0", deaths={7: 3.0})) == {}


def test_a_body_that_was_stopped_may_run_again(judged):
    assert _wrong(judged("start a 1 7 1.0", "stopped a 1 7 2.0", "start a 2 8 4.0", "end a 2 8 5.0")) == {}


def test_what_a_process_began_that_was_frozen_meanwhile_takes_no_commit_back(judged):
    woken_late = ("start a 2 8 3.0", "end a 2 8 4.0", "start a 1 7 5.0", "stopped a 1 7 5.5")
    verdict = judged(*woken_late)
    assert (verdict.commits, verdict.lost) == (1, [])


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([], {"lost": 1}),
        (["start a 1 7 1.0"], {"lost": 1}),
        (["start a 1 7 1.0", "start a 2 8 1.5", "end a 2 8 3.0"], {"double": 1, "strange": 1}),
        (["start a 1 7 1.0", "end a 1 7 2.0", "start a 2 8 3.0", "end a 2 8 4.0"], {"second": 1, "strange": 1}),
        (["start a 1 9 1.0", "end a 1 9 2.0", "start a 2 8 2.5", "end a 2 8 4.0"], {"second": 1, "strange": 1}),
        (["start a 1 7 1.0", "end a 1 7 2.0", "start b 1 7 3.0", "end b 1 7 4.0"], {"strange": 1}),
        (["start a 3 7 1.0", "end a 3 7 2.0"], {"strange": 1}),
        (["start a 1 9 1.0", "start a 1 8 6.0", "end a 1 8 7.0"], {"strange": 2}),
    ],
    ids=[
        "never began", "never ended", "two alive", "a second body", "a second body before the death",
        "nobody asked", "too many attempts", "one attempt twice",
    ],
)  # fmt: skip
def test_every_wrong_is_seen(judged, lines, wrong):
    assert _wrong(judged(*lines, deaths={9: 5.0})) == wrong


def test_a_line_that_is_only_half_there_is_left_out(tmp_path):
    (tmp_path / "record").write_text("start a 1 7 1.0\nend a 1 7")
    assert [span.how for span in judge(tmp_path / "record", ["a"], {}).spans["a"]] == ["runs"]


def _row(number: int, engine: str, figure: Figure) -> Row:
    return Row(number, "what", engine, "sqlite", "full", 7, [figure], 1.0)


def test_the_table_keeps_the_rows_that_were_not_run_again(tmp_path):
    document = Path(tmp_path / "page.md")
    document.write_text("before\n<!-- the bars: begin -->\n<!-- the bars: end -->\nafter\n")
    report.write(document, [_row(10, "huey", report.equals("commits", 1, 1)), _row(2, "rq", report.none("lost", []))])
    report.write(document, [_row(10, "huey", report.equals("commits", 1, 2))])
    rows = [line for line in document.read_text().splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row.split("|")[1].strip() for row in rows] == ["2", "10"]
    assert "commits 1 (2) | **no** |" in rows[1]
    assert document.read_text().startswith("before\n")
    assert document.read_text().endswith("\nafter\n")


def test_a_soak_takes_what_lasts_for_growth_and_a_single_look_for_none():
    steady = [(number / 100, 50) for number in range(100)]
    assert growth([*steady[:-1], (0.99, 60)]) == 0
    assert growth([(at, 50 if at < 0.5 else 55) for at, _ in steady]) == pytest.approx(0.1)
