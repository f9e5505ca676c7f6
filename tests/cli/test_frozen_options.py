"""The command line is an interface: an option that comes or goes changes a file that people read.

After a wanted change: ``longtake predict --print_config > tests/cli/golden/predict.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from longtake.framework.main import main

GOLDEN = Path(__file__).parent / "golden" / "predict.yaml"


def test_options_and_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--print_config"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == GOLDEN.read_text()
