"""What a URL fetches is in the cache, and a URL that is none is one sentence."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from detectron2.utils.file_io import PathManager
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from samdetr import checkpoint
from samdetr.checkpoint import Checkpointer, CheckpointError, MissingCheckpointError
from samdetr.data.mini import dataset as mini
from samdetr.modeling import queries
from samdetr.urls import SafeUrlHandler, UrlError, check_url

WEIGHTS = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """Address of a server that answers everything with the same checkpoint."""
    path = tmp_path_factory.mktemp("server") / "file.pth"
    torch.save(WEIGHTS, path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "outer" / "cache"))
    yield tmp_path / "outer" / "cache"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "path", ["model.pth", "a/b/model.pth", "a%20b/model.pth", "model.pth?dl=1", "a..b/..c/m.pth"]
)
def test_a_file_of_a_server_is_in_the_cache(host, cache, path):
    model = nn.Linear(2, 2)
    url = f"http://{host}/{path}"
    local = Path(PathManager.get_local_path(url))
    assert local.is_relative_to(cache) and ".." not in local.relative_to(cache).parts
    with PathManager.open(url, "rb") as file:
        assert file.read() == local.read_bytes()
    if "?" not in path:
        Checkpointer(model).load(url)
        assert torch.equal(model.weight, WEIGHTS["weight"])


OUTWARDS = [
    "../victim/model.pth",
    "/../victim/model.pth",
    "a/../../victim/model.pth",
    "..%2fvictim/model.pth",
    "%2e%2e/victim/model.pth",
    "%252e%252E/victim/model.pth",
    ".\t./victim/model.pth",
    ".\n./victim/model.pth",
    ".\r./victim/model.pth",
    "%2e%09%2e/victim/model.pth",
    "..\\victim\\model.pth",
    "..%5Cvictim/model.pth",
    "a/..",
    "a?b/..",
    "a;../victim/model.pth",
    "./model.pth",
    "a//model.pth",
    "",
    "a/",
    "model.pth?folder/",
]


@pytest.mark.parametrize("path", OUTWARDS)
def test_nothing_is_written_outside_of_the_cache(host, cache, path, tmp_path):
    url = f"http://{host}/{path}"
    with pytest.raises(UrlError):
        PathManager.get_local_path(url)
    with pytest.raises(UrlError):
        PathManager.open(url, "rb")
    assert not files(tmp_path)
    if "?" not in path:  # what comes after it is for Detectron2's checkpointer
        with pytest.raises(CheckpointError):
            Checkpointer(nn.Linear(2, 2)).load(url)
        assert not files(tmp_path)


@pytest.mark.parametrize("prefix", ["detectron2://", "https://127.0.0.1:9/", "ftp://127.0.0.1:9/"])
def test_no_other_prefix_leads_outwards(cache, prefix, tmp_path):
    with pytest.raises(UrlError, match="no part of it"):
        PathManager.get_local_path(f"{prefix}../victim/model.pth")
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://[x/model.pth",
        "http://a b/model.pth",
        "http://[x",
        "http:///",
        "http://",
        "http://127.0.0.1:x/model.pth",
        "http://127.0.0.1:9/\ud800",
        "https://1drv.ms/u/s!\ud800",
        "http://127.0.0.1:9/\0",
        "http://127.0.0.1:9/" + "x" * 5000,
        "http://127.0.0.1:9/%" + "25" * 2_000_000,
        "catalog://x",
        "catalog://ImageNetPretrained/x",
        "catalog://Caffe2Detectron/COCO/x",
        "catalog://../x",
        "detectron2://",
    ],
    ids=lambda url: repr(url[:40]),
)
def test_a_url_that_is_none_is_one_sentence(cache, url, tmp_path):
    with pytest.raises(MissingCheckpointError) as error:
        Checkpointer(nn.Linear(2, 2)).load(url)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert all(path.is_relative_to(cache) for path in files(tmp_path))


@given(st.lists(st.sampled_from([*"./\\%?#;a\t\n 2eE", "%2e", "%25", "%2f", "..", "/../"])))
def test_what_is_let_pass_has_a_place_in_the_cache(parts):
    """By the two steps in which iopath makes a path of a URL."""
    url = "http://host/" + "".join(parts)
    try:
        check_url(url)
    except UrlError:
        return
    folder = Path("cache", Path(urlparse(url).path.lstrip("/")).parent)
    place = folder / url.split("/")[-1]
    assert ".." not in place.parts and place.name == url.split("/")[-1] != ""


def test_the_parts_that_open_files_do_so_by_the_same_handler():
    """Which Detectron2's own parts that open files find too, once one of these is imported."""
    for module in (checkpoint, mini, queries):
        assert module.PathManager is PathManager
    handler = PathManager._path_handlers["http://"]
    assert isinstance(handler, SafeUrlHandler) and handler is PathManager._path_handlers["https://"]
