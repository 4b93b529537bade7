"""A path where no file is, is refused with what may be meant."""

from pathlib import Path

import pytest

from cellfm.corpus.missing import refuse_no_file
from cellfm.errors import DataError


def test_near_names_and_folders(tmp_path: Path) -> None:
    (tmp_path / "pbmc3k.h5ad").write_text("")
    refuse_no_file(tmp_path / "pbmc3k.h5ad")
    with pytest.raises(
        DataError, match=r"no file .*pbmc3kk.*an h5ad file\. Near names there: pbmc3k\.h5ad\. Check"
    ):
        refuse_no_file(tmp_path / "pbmc3kk.h5ad")
    with pytest.raises(
        DataError, match=r"expected the query\. Not even the folder .*elsewhere is there"
    ):
        refuse_no_file(tmp_path / "elsewhere" / "a.h5ad", "the query")
    (tmp_path / "sample").mkdir()
    with pytest.raises(
        DataError, match=r"a folder of that name.*cellfm convert .*sample sample\.h5ad"
    ):
        refuse_no_file(tmp_path / "sample")
