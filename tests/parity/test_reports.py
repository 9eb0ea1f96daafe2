"""Reports of stage bundles: written last, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from trinity_mlx.contracts.errors import FolderUnavailable, ParitySetupError
from trinity_mlx.parity.report import begin_report, read_report, write_report


def test_a_folder_that_cannot_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderUnavailable, match="cannot be written"):
        begin_report(tmp_path / "file")


def test_a_report_goes_round(tmp_path: Path) -> None:
    components = {"method": "gram", "dtype": "float64", "sha256": "a" * 64}
    write_report(tmp_path, {"components": components, "tensors": [{"name": "t"}]})
    report = read_report(tmp_path)
    assert (report.components, report.components_dtype, report.tensors) == ("a" * 64, "float64", ("t",))


def test_beginning_anew_makes_a_finished_bundle_unfinished(tmp_path: Path) -> None:
    write_report(tmp_path, {"components": {"sha256": "a" * 64, "dtype": "float32"}, "tensors": []})
    begin_report(tmp_path)
    with pytest.raises(ParitySetupError, match="no finished stage bundle"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema": "trinity-mlx.parity.stages", "version": 2}',
        '{"schema": "trinity-mlx.parity.stages", "version": 1, "components": {"sha256": "zz", "dtype": "float32"}}',
        '{"schema": "x", "version": 1, "components": {"sha256": "%s", "dtype": "f"}, "tensors": []}' % ("a" * 64),
        "[" * 100_000,
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ParitySetupError, match=r"report\.json"):
        read_report(tmp_path)
