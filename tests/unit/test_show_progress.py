import io

from rich.console import Console
from rich.progress import Progress as Bars

from edgecompile.cli.show_progress import TerminalProgress, shown_progress


def test_a_bar_becomes_the_line_of_its_stage():
    screen = io.StringIO()
    with Bars(console=Console(file=screen, width=80, force_terminal=True), transient=True) as bars:
        progress = TerminalProgress(bars)
        progress.start("quantize", total=2)
        progress.advance()
        assert bars.tasks[0].completed == 1
        progress.finish("[kept] as it is")
        assert not bars.tasks
        progress.start("left open")
        progress.start("next")
        assert len(bars.tasks) == 1
    assert "quantize … 0.0 s  [kept] as it is" in screen.getvalue()


def test_without_a_terminal_lines_go_to_stderr(capsys):
    with shown_progress() as progress:
        progress.start("capture")
        progress.advance(3)
        progress.finish()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "capture … 0.0 s\n")
