"""What is shown of long work: how much is done, how fast, and the time left, in closed form."""

import pytest

from backdrift.runs.progress import Progress


def test_the_line_tells_the_speed_and_the_time_left() -> None:
    progress = Progress("sample", 100)
    progress.skip(5)
    progress.advance(20)
    # 20 samples in 10 s are 2 in a second; the other 75 take 37.5 s. Those that were done before say nothing of speed.
    assert progress.line(10.0) == "sample: 25 of 100 samples  2 samples/s, 00:37 left"
    assert progress.line(10.0, "loss 0.5").endswith("left  loss 0.5")
    assert Progress("train", 9, "step", done=3).line(1.0) == "train: 3 of 9 steps"


def test_a_terminal_has_a_bar_and_others_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("backdrift.runs.progress.time.monotonic", lambda: now)
    with Progress("score", 40, every=10.0) as progress:
        for second in range(1, 41):
            now = float(second)
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"score: {done} of 40 samples" for done in (10, 20, 30, 40)]
    with Progress("score", 40, shown=False, every=0.0) as progress:
        progress.advance()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("score", 40) as progress:
        progress(12.7)
        progress(40)
    assert "40/40" in capsys.readouterr().err
