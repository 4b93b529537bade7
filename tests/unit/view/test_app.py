import struct
import threading
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from cellfm import tl
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import Vocabulary
from cellfm.view.app import make_app
from cellfm.view.describe import describe_file
from cellfm.view.guard import Guard
from cellfm.view.options import ViewOptions
from cellfm.view.server import _listening, serve
from cellfm.view.session import Session
from cellfm.weights.folder import new, save
from tests.unit.view.conftest import GENES, N_CELLS, ask, small_cells

TOKEN, PORT = "secret-token", 8123
HOST = {"Host": f"127.0.0.1:{PORT}"}
COOKIE = HOST | {"Cookie": f"other={{x}}; cellfm_view_{PORT}={TOKEN}"}
OWN = COOKIE | {"Origin": f"http://127.0.0.1:{PORT}"}


@pytest.fixture
def session(path, tmp_path):
    (tmp_path / "work").mkdir()
    session = Session(ViewOptions(), tmp_path / "work")
    session.open(path, path.name)
    yield session
    session.close()


@pytest.fixture
def app(session):
    return Guard(make_app(session), token=TOKEN, port=PORT)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Random weights over the genes of the small file."""
    pretrained = new("debug", Vocabulary.from_symbols(GENES), seed=0)
    folder = tmp_path_factory.mktemp("weights") / "random"
    save(folder, pretrained.network, pretrained.vocabulary, card="random", provenance={})
    return folder


def finished(session, described) -> dict[str, object]:
    for thread in threading.enumerate():
        if thread.name == f"cellfm-view-{described['job']}":
            thread.join(timeout=60)
    return session.jobs.get(described["job"]).described()


def test_token_in_address_gives_a_cookie_that_scripts_and_other_sites_cannot_use(app):
    answer = ask(app, f"/?token={TOKEN}", headers=HOST)
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert cookie == f"cellfm_view_{PORT}={TOKEN}; HttpOnly; SameSite=Strict; Path=/"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    later = ask(app, "/api/state", headers=COOKIE)
    assert later.status == 200
    assert "set-cookie" not in later.headers
    assert later.json["files"] == [{"file": 0, "name": "small.h5ad"}]


@pytest.mark.parametrize(
    ("asked", "headers", "status", "says"),
    [
        ("/", HOST, 403, "needs the token"),
        ("/?token=", HOST, 403, "needs the token"),
        ("/?token=%FF%00", HOST, 403, "needs the token"),
        (f"/?token={TOKEN}x", HOST, 403, "needs the token"),
        ("/page/view.js", HOST, 403, "needs the token"),
        ("/", HOST | {"Cookie": f"cellfm_view_{PORT}=x"}, 403, "needs the token"),
        ("/", HOST | {"Cookie": f"cellfm_view_1={TOKEN}"}, 403, "needs the token"),
        (f"/?token={TOKEN}", {}, 400, "127.0.0.1 and localhost only"),
        (f"/?token={TOKEN}", {"Host": f"evil.example:{PORT}"}, 400, "localhost only"),
        ("/?token=x", COOKIE, 403, "needs the token"),  # whatever the cookie says
        ("/", COOKIE | {"Host": "127.0.0.1:80"}, 400, "localhost only"),
        ("/", COOKIE | {"Origin": "http://127.0.0.1:80"}, 403, "another web page"),
        ("/", COOKIE | {"Origin": "null"}, 403, "another web page"),
    ],
)
def test_refused(app, asked, headers, status, says):
    answer = ask(app, asked, headers=headers)
    assert answer.status == status
    assert says in answer.content.decode()
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "set-cookie" not in answer.headers


def test_changes_need_the_own_page(app):
    body = np.array([1], "<u4").tobytes()
    for headers in (COOKIE, COOKIE | {"Origin": "http://localhost:9"}):
        answer = ask(app, "/api/files/0/selections", method="POST", headers=headers, body=body)
        assert answer.status == 403
    answer = ask(app, "/api/files/0/selections", method="POST", headers=OWN, body=body)
    assert answer.json == {"selection": 0, "n": 1}


def test_assets_are_those_of_the_package(app):
    for name in ("view.js", "plot.js", "view.css", "plotly.js"):
        assert ask(app, f"/page/{name}", headers=COOKIE).status == 200
    for name in ("index.html", "nil.js", "..%2fapp.py", "../app.py"):
        assert ask(app, f"/page/{name}", headers=COOKIE).status == 404


def test_page_names_no_other_server():
    folder = Path(__file__).parents[3] / "src" / "cellfm" / "view" / "page"
    files = sorted(folder.iterdir())
    assert len(files) == 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "//" not in text.replace("// ", "").replace("http://www.w3.org", "")
        assert "innerHTML" not in text
        assert "style=" not in text


def test_description_of_a_file(app, adata):
    found = ask(app, "/api/files/0", headers=COOKIE).json
    assert (found["cells"], found["genes"], found["embedding"]) == (N_CELLS, 8, "X_cellfm")
    assert found["layouts"] == ["X_umap", "UMAP of X_cellfm", "PCA of X_cellfm"]
    kinds = {column["name"]: column["kind"] for column in found["columns"]}
    assert kinds == {"kind": "groups", "depth": "numbers", "good": "groups", "note": "groups"}
    assert found["first"] == "kind"
    assert found["annotations"] == []


def test_labels_of_an_annotation_are_recognised(adata, tmp_path):
    adata.obs["mine"] = ["unknown"] * 4 + ["T"] * 36
    adata.obs["mine_probability"] = np.linspace(0, 1, 40)
    adata.obs["mine_novelty"] = 1.0
    del adata.obsm["X_umap"], adata.obsm["X_cellfm"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    session = Session(ViewOptions(), tmp_path)
    found = describe_file(session.open(tmp_path / "a.h5ad", "a"), session.options)
    assert found["annotations"] == [
        {
            "name": "mine",
            "probability": "mine_probability",
            "novelty": "mine_novelty",
            "unknown": 4,
            "median": 0.5,
        }
    ]
    assert found["first"] == "mine"
    assert found["layouts"] == []
    session.close()


def test_points_of_the_file_and_of_principal_components(app, adata):
    answer = ask(app, "/api/files/0/points?layout=X_umap", headers=COOKIE)
    (length,) = struct.unpack_from("<I", answer.content)
    points = np.frombuffer(answer.content, "<f4", offset=4 + length).reshape(2, -1)
    np.testing.assert_array_equal(points.T, adata.obsm["X_umap"])
    assert ask(app, "/api/files/0/points?layout=PCA%20of%20X_cellfm", headers=COOKIE).status == 200
    wrong = ask(app, "/api/files/0/points?layout=X_nil", headers=COOKIE)
    assert wrong.status == 422
    assert "no embedding 'X_nil'" in wrong.json["message"]


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ("/api/files/9", 422, "There is no file 9"),
        ("/api/files/0/obs?name=nil", 422, "no column 'nil'"),
        ("/api/files/0/obs", 422, "no 'name'"),
        ("/api/files/0/gene?name=nil", 422, "There is no gene 'nil'"),
        ("/api/files/0/cells/40", 404, "Not Found"),
        ("/api/files/0/download", 404, "Not Found"),  # a user's own file is where it is
        (
            "/api/files/0/selections/0/composition?name=kind",
            422,
            "Selection 0 of small.h5ad is gone",
        ),
        ("/api/jobs/0", 422, "There is no job 0"),
    ],
)
def test_wrong_questions(app, asked, status, says):
    answer = ask(app, asked, headers=COOKIE)
    assert answer.status == status
    assert says in answer.content.decode()


def test_cell_and_genes(app):
    found = ask(app, "/api/files/0/cells/3", headers=COOKIE).json
    assert found["name"] == "cell3"
    assert found["values"]["kind"] == "T"
    assert ask(app, "/api/files/0/genes?text=ms4", headers=COOKIE).json == {"names": ["MS4A1"]}


def test_selection_is_limited_and_only_the_last_are_kept(app, session):
    body = np.zeros(N_CELLS + 1, "<u4").tobytes()
    answer = ask(app, "/api/files/0/selections", method="POST", headers=OWN, body=body)
    assert "more cells than the 40" in answer.json["message"]
    opened = session.file(0)
    numbers = [session.select(opened, np.array([0])) for _ in range(20)]
    assert numbers == list(range(20))
    assert len(opened.selections) == 16
    with pytest.raises(DataError, match="the last 16 are kept"):
        opened.selection(3)


def upload(app, name: str, content: bytes, **headers: str):
    return ask(app, f"/api/upload?name={name}", method="PUT", headers=OWN | headers, body=content)


def test_a_file_that_is_too_large_is_refused_and_gone(path, tmp_path):
    (tmp_path / "work").mkdir()
    session = Session(ViewOptions(max_upload=1e-6), tmp_path / "work")
    app = Guard(make_app(session), token=TOKEN, port=PORT)
    answer = upload(app, "a.h5ad", path.read_bytes())
    assert answer.status == 422
    assert "a.h5ad is larger than the 1e-06 GiB" in answer.json["message"]
    said = upload(app, "a.h5ad", b"x", **{"Content-Length": "5000"})  # before anything is written
    assert "larger" in said.json["message"]
    assert not list((tmp_path / "work").iterdir())
    session.close()


def test_uploads_stay_in_their_folder(app, session):
    found = finished(session, upload(app, "..%2F..%2Fevil.h5ad", b"text").json)
    assert found["state"] == "failed"
    assert found["message"].startswith("evil.h5ad (4 bytes) is no h5ad file")
    assert not list(session.folder.iterdir())
    assert session.upload_path("../../x<y>.h5ad").relative_to(session.folder).name == "x_y_.h5ad"
    assert session.upload_path("...").name == "cells.h5ad"


def test_a_file_with_states_is_shown_as_it_is(app, session, path):
    found = finished(session, upload(app, "b.h5ad", path.read_bytes()).json)
    assert found["result"] == {"file": 1, "said": "b.h5ad has an embedding already."}
    assert ask(app, "/api/files/1", headers=COOKIE).json["name"] == "b.h5ad"


def test_counts_that_are_none_are_refused_in_the_words_of_cellfm(app, session, adata, tmp_path):
    del adata.obsm["X_cellfm"]
    adata.X = adata.X * 0.5
    adata.write_h5ad(tmp_path / "half.h5ad")
    found = finished(session, upload(app, "half.h5ad", (tmp_path / "half.h5ad").read_bytes()).json)
    assert found["state"] == "failed"
    assert "upload" not in found["message"]
    assert not list(session.folder.iterdir())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_file_is_embedded_annotated_and_shown(model, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("scanpy")
    adata = small_cells()
    del adata.obsm["X_cellfm"]
    small_cells(160).write_h5ad(tmp_path / "reference.h5ad")
    tl.train_annotator_file(
        tmp_path / "reference.h5ad", tmp_path / "annotator", model, label="kind", min_matched=0.1
    )
    adata.obs["cellfm"] = "taken"
    adata.write_h5ad(tmp_path / "query.h5ad")
    (tmp_path / "work").mkdir()
    options = ViewOptions(model=model, annotator=tmp_path / "annotator")
    session = Session(options, tmp_path / "work")
    app = Guard(make_app(session), token=TOKEN, port=PORT)
    content = (tmp_path / "query.h5ad").read_bytes()
    found = finished(session, upload(app, "query.h5ad", content).json)
    assert found["state"] == "done", found["message"]
    shown = ask(app, "/api/files/0", headers=COOKIE).json
    assert shown["name"] == "query.annotated.h5ad"
    assert [one["name"] for one in shown["annotations"]] == ["cellfm2"]
    assert shown["embedding"] == "X_cellfm"
    made = ask(app, "/api/files/0/download", headers=COOKIE)
    (tmp_path / "made.h5ad").write_bytes(made.content)
    obs = anndata.read_h5ad(tmp_path / "made.h5ad").obs
    assert set(obs["cellfm2"]) <= {"T", "B", "unknown"}
    assert set(obs["cellfm"]) == {"taken"}
    # a file without such a column: the annotator's own states are the embedding
    del adata.obs["cellfm"]
    adata.write_h5ad(tmp_path / "plain.h5ad")
    content = (tmp_path / "plain.h5ad").read_bytes()
    found = finished(session, upload(app, "plain.h5ad", content).json)
    assert found["result"]["file"] == 1, found["message"]
    plain = ask(app, "/api/files/1", headers=COOKIE).json
    assert (plain["first"], plain["embedding"]) == ("cellfm", "X_cellfm")
    kept = [file.name for file in (tmp_path / "work").rglob("*.h5ad")]
    assert sorted(kept) == [
        "plain.annotated.h5ad",
        "query.annotated.h5ad",
    ]  # neither the upload nor what was between
    session.close()


def test_a_file_without_embedding_is_embedded_on_asking_and_not_changed(model, adata, tmp_path):
    adata.obsm.clear()
    adata.write_h5ad(tmp_path / "bare.h5ad")
    before = (tmp_path / "bare.h5ad").read_bytes()
    (tmp_path / "work").mkdir()
    session = Session(ViewOptions(model=model), tmp_path / "work")
    session.open(tmp_path / "bare.h5ad", "bare.h5ad")
    app = Guard(make_app(session), token=TOKEN, port=PORT)
    asked = ask(app, "/api/files/0/embed", method="POST", headers=OWN)
    found = finished(session, asked.json)
    assert found["result"]["file"] == 1, found["message"]
    assert "genes matched" in found["result"]["said"]
    shown = ask(app, "/api/files/1", headers=COOKIE).json
    assert (shown["name"], shown["embedding"]) == ("bare.embedded.h5ad", "X_cellfm")
    assert shown["layouts"] == ["UMAP of X_cellfm", "PCA of X_cellfm"]
    assert (tmp_path / "bare.h5ad").read_bytes() == before
    session.close()


def test_an_annotator_that_is_none_ends_the_command(tmp_path):
    with pytest.raises(WeightsError, match="none"):
        serve(None, ViewOptions(annotator=tmp_path / "none"), browser=False)


def test_a_port_that_is_taken(tmp_path):
    with _listening(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 cannot be used"):
            serve(None, ViewOptions(port=port), browser=False)


def test_a_file_that_cannot_be_shown_ends_the_command(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w"):
        pass
    with pytest.raises(DataError, match="has no obs"):
        serve(tmp_path / "a.h5ad", ViewOptions(), browser=False)
