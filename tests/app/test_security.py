"""Who may reach the page, and what it serves."""

import asyncio
import os
from pathlib import Path

import pytest

from workbench.errors import SettingError, WorkbenchError
from workbench_app.main import launch
from workbench_app.security import Guard, check_address, host_of, is_loopback, own_folder


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.0.1", "::1", "[::1]"])
def test_loopback_needs_no_password(host):
    assert is_loopback(host)
    check_address(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "", "127.0.0.1.example.org"])
def test_any_other_address_needs_a_password(host):
    with pytest.raises(SettingError, match="give a password"):
        check_address(host, "")
    with pytest.raises(SettingError, match="give a password"):
        launch(port=0, host=host)
    check_address(host, "a password")


async def answer(guard, path, host="127.0.0.1:7860"):
    sent = []

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", host.encode())]}
    await guard(scope, None, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def ask(*question):
    """Ask a guard for a path: status and headers of its answer."""
    return asyncio.run(answer(*question))


async def page(scope, receive, send):
    headers = [(b"content-type", b"text/html"), (b"content-security-policy", b"anything")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"page"})


def test_every_answer_carries_the_policy(tmp_path):
    status, headers = ask(Guard(page, tmp_path), "/")
    assert status == 200
    assert b"connect-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", ""])
def test_a_foreign_name_for_this_machine_is_refused(tmp_path, host):
    assert ask(Guard(page, tmp_path), "/", host)[0] == 421
    assert ask(Guard(page, tmp_path, loopback=False), "/", host)[0] == 200


def test_host_header_without_port():
    assert [host_of(text) for text in ("localhost:1", "[::1]:7", "127.0.0.1")] == ["localhost", "[::1]", "127.0.0.1"]


def test_only_files_of_its_own_folder_are_served(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.write_text("secret")
    (own / "report.html").write_text("report")
    (own / "link").symlink_to(other)
    guard = Guard(page, own)
    assert ask(guard, f"/gradio_api/file={own}/report.html")[0] == 200
    for name in (other, own / "link", own / "../other", "/etc/passwd", "http://127.0.0.1/", "a\0b"):
        assert ask(guard, f"/gradio_api/file={name}")[0] == 403
    assert ask(guard, f"/gradio_api/file={own}/%2e%2e/other")[0] == 403


@pytest.mark.parametrize(
    "path", ["/gradio_api/upload", "/gradio_api/proxy=http://a", "/gradio_api/component_server", "/x"]
)
def test_what_the_page_never_needs_is_not_there(tmp_path, path):
    assert ask(Guard(page, tmp_path), path)[0] == 404


def test_the_folder_is_empty_and_the_surroundings_are_put_back(monkeypatch):
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    before = Path.cwd(), dict(os.environ)
    with own_folder() as files:
        assert not list(Path.cwd().iterdir()) and not list(files.iterdir())
        assert "GRADIO_ALLOWED_PATHS" not in os.environ and "GRADIO_SHARE" not in os.environ
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert Path.cwd() == before[0]
    gradio = {key: value for key, value in os.environ.items() if key.startswith("GRADIO_")}
    assert gradio == {key: value for key, value in before[1].items() if key.startswith("GRADIO_")}
    assert not files.exists()


def test_a_port_in_use_is_said_plainly():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(WorkbenchError, match="cannot be opened"):
            launch(port=taken.getsockname()[1])
