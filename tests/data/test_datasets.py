"""Downloads: pinned content, mirrors, retries, going on where one broke off; and no network at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from microgpt.data import datasets
from microgpt.data.datasets import DATASETS, Dataset, fetch, find, locate, pydocs
from microgpt.errors import DataError, MachineError, UsageError

CONTENT = bytes(range(256)) * 400


class Mirror(BaseHTTPRequestHandler):
    """It breaks off in the middle (/broken), lies (/wrong), has nothing (/none), knows no ranges (/plain)."""

    log: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.log.append((self.path, asked))
        if self.path == "/none":
            self.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.path != "/plain" else 0
        body = CONTENT[begin:] if self.path != "/wrong" else b"?" * len(CONTENT)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:30_000] if self.path == "/broken" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Mirror.log = []
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MICROGPT_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets.time, "sleep", lambda seconds: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def serve(monkeypatch: pytest.MonkeyPatch, site: str, *paths: str) -> None:
    pinned = hashlib.sha256(CONTENT).hexdigest()
    wanted = Dataset("set.bin", tuple(site + path for path in paths), pinned, len(CONTENT), "a set", "none")
    monkeypatch.setitem(DATASETS, "set", wanted)


def test_a_download_goes_on_where_it_broke_off(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, site, "/broken", "/good")
    path = fetch("set", progress=False)
    assert path.read_bytes() == CONTENT
    assert [path for path, _ in Mirror.log] == ["/broken", "/good"]
    assert Mirror.log[1][1] is not None, "the second mirror is asked for the rest"
    assert [entry.name for entry in path.parent.iterdir()] == ["set.bin"]
    assert fetch("set") == path
    assert len(Mirror.log) == 2


def test_the_second_of_two_downloads_waits_for_the_first(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would write into one partial file."""
    serve(monkeypatch, site, "/whole")
    real, found = datasets.Resuming.__call__, []
    second = threading.Thread(target=lambda: found.append(fetch("set", progress=False)))

    def meanwhile(self: datasets.Resuming, *args: Any) -> None:
        if not second.ident:
            with monkeypatch.context() as patch:
                patch.setattr(datasets, "PATIENCE", 0.0)
                with pytest.raises(MachineError, match="another process") as error:
                    fetch("set", progress=False)
            assert error.value.code == "E_LOCKED"
            second.start()
        real(self, *args)

    monkeypatch.setattr(datasets.Resuming, "__call__", meanwhile)
    first = fetch("set", progress=False)
    second.join()
    assert found == [first]
    assert first.read_bytes() == CONTENT
    assert [path for path, _ in Mirror.log] == ["/whole"]


def test_a_server_without_ranges_sends_all_again(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, site, "/broken", "/plain")
    assert fetch("set", progress=False).read_bytes() == CONTENT


def test_mirrors_and_retries(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, site, "/none", "/wrong", "/good")
    assert fetch("set", progress=False).read_bytes() == CONTENT
    assert [path for path, _ in Mirror.log] == ["/none", "/wrong", "/good"]


def test_content_that_differs_is_never_taken(site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, site, "/wrong")
    with pytest.raises(MachineError, match="download failed") as caught:
        fetch("set", progress=False)
    assert len(Mirror.log) == datasets.TRIES
    assert "put set.bin from" in str(caught.value)
    assert str(tmp_path / "cache" / "data") in str(caught.value)
    assert locate("set") is None


def test_without_a_network_the_file_and_folder_are_named(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, "http://no-such-host.invalid", "/good")
    with pytest.raises(MachineError, match=r"put set\.bin from http://no-such-host\.invalid/good into .* by hand"):
        find("set", progress=False)


def test_a_cache_that_cannot_be_written_is_no_failed_download(
    site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, site, "/good")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(MachineError) as error:
        fetch("set", progress=False)
    cache = tmp_path / "cache" / "data"
    assert str(error.value).startswith(f"{cache}: cannot be written (Permission denied); choose a folder ")
    assert "MICROGPT_CACHE_DIR" in str(error.value)
    assert Mirror.log == []


def test_a_file_by_hand_counts_if_it_is_the_set(site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, site, "/none")
    monkeypatch.setenv("MICROGPT_DATA_DIR", str(tmp_path))
    (tmp_path / "set.bin").write_bytes(CONTENT)
    assert find("set")[0] == tmp_path / "set.bin"
    (tmp_path / "set.bin").write_bytes(CONTENT[1:])
    with pytest.raises(DataError, match="its SHA-256 differs"):
        find("set")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_pinned_sets_are_described(name: str) -> None:
    wanted = DATASETS[name]
    assert len(wanted.sha256) == 64
    assert len(wanted.urls) >= 2
    assert all(url.startswith("https://") for url in wanted.urls)
    found = locate(name)
    assert found is None or found.stat().st_size == wanted.size


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean pydocs"):
        find("pydoc")


def test_pydocs_is_text() -> None:
    text = pydocs()
    assert len(text) > 200_000
    assert text == pydocs()
