import pytest

from jaxdiff.evaluation import classifier
from tests import runs
from tests.programs import call, refused

pytestmark = pytest.mark.usefixtures("alone")


def test_the_command_prints_a_row_for_each_quarter_of_the_timesteps(tmp_path, capsys):
    model = runs.make_run(tmp_path / "run", runs.classifier("adaptive"), steps=(5,))
    options = ["--split=test", "--repeats=1", "--import=studies.digits.data"]
    assert not call(classifier.main, f"--model={model}", *options)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    for _, top1, top5 in rows:
        assert 0 <= float(top1.rstrip("%")) <= float(top5.rstrip("%")) <= 100
    other = runs.make_run(tmp_path / "other", runs.unlabelled(), steps=(5,))
    lines = [([], "--model"), ([f"--model={other}"], "is a diffusion model")]
    refused(classifier.main, capsys, lines)
