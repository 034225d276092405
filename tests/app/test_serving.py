"""The served page under raw requests: what is refused before it is read, and what other pages may not do."""

import json
import logging
import socket
import threading
import time

import gradio as gr
import httpx
import pytest

from workbench_app import limits, login, serving
from workbench_app.limits import MOST_BODY
from workbench_app.security import own_folder
from workbench_app.serving import serving as serve

PASSWORD = "long and right"


def page():
    with gr.Blocks(analytics_enabled=False) as made:
        box, out = gr.Dropdown(["a", "b"], value="a"), gr.Textbox()
        gr.Button("go").click(lambda text: text, box, out, queue=False, api_visibility="private")
    return made.queue(api_open=False)


@pytest.fixture(scope="module")
def address():
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, None) as url:
        yield url


@pytest.fixture(scope="module")
def locked():
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, PASSWORD) as url:
        yield url


def raw(url, request, wait=5.0):
    """Send bytes as they are, and return all that comes back until the other side closes."""
    where = httpx.URL(url)
    with socket.create_connection((where.host, where.port), timeout=wait) as connection:
        for part in [request] if isinstance(request, bytes) else request:
            try:
                connection.sendall(part)
            except OSError:
                break
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
        return answer


def head(url, line, *headers):
    where = httpx.URL(url)
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {where.host}:{where.port}", *headers, "", ""]).encode()


@pytest.mark.parametrize("place", ["gradio_api/queue/join", "gradio_api/run/predict", "login", "gradio_api/cancel"])
def test_a_body_that_is_too_large_is_refused_by_what_it_announces(address, locked, place):
    for url in (address, locked):
        answer = raw(url, head(url, f"POST /{place}", "Content-Type: application/json", "Content-Length: 800000000"))
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 401")), answer[:100]


def test_a_body_in_chunks_is_counted_as_it_arrives(address):
    sent = []

    def chunks():
        yield head(address, "POST /gradio_api/queue/join", "Transfer-Encoding: chunked")
        for _ in range(800):
            sent.append(1)
            yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    answer = raw(address, chunks())
    assert answer.startswith(b"HTTP/1.1 413") or (not answer and len(sent) < 800), answer[:100]
    assert len(sent) * 0x10000 < 4 * MOST_BODY + 8 * 2**20  # what lies in the system's own buffers is not ours


def test_nothing_is_read_of_somebody_without_the_password(locked):
    asked = [
        ("POST", "gradio_api/queue/join"),
        ("POST", "gradio_api/cancel"),
        ("GET", "config"),
        ("GET", "gradio_api/heartbeat/x"),
        ("GET", "gradio_api/queue/data?session_hash=x"),
    ]
    for method, place in asked:
        answer = raw(locked, head(locked, f"{method} /{place}"))
        assert answer.startswith(b"HTTP/1.1 401"), (place, answer[:100])
    long = b"username=workbench&password=" + b"x" * 10_000
    answer = raw(locked, head(locked, "POST /login", f"Content-Length: {len(long)}") + long)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_request_in_a_page_to_read_brings_nothing(address):
    assert raw(address, head(address, "GET /", "Content-Length: 5") + b"hello").startswith(b"HTTP/1.1 413")
    assert raw(address, head(address, "GET /", "Transfer-Encoding: chunked")).startswith(b"HTTP/1.1 413")


def test_a_length_said_twice_is_refused_with_all_that_follows(address):
    both = head(address, "POST /gradio_api/queue/join", "Content-Length: 4", "Transfer-Encoding: chunked")
    answers = raw(address, both + b"0\r\n\r\n" + head(address, "GET /config"))
    assert answers.startswith(b"HTTP/1.1 400") and answers.count(b"HTTP/1.1 ") == 1


def test_a_head_has_an_end(address):
    for long in (head(address, "GET /", "X-Long: " + "x" * 100_000), head(address, f"GET /?{'x' * 40_000}")):
        assert raw(address, long).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert raw(address, head(address, "GET /", "X-Long: " + "x" * 100_000)[:-4]).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("body", [b"[" * 5000 + b"]" * 5000, b'{"data":[' + b"[]," * 20_000 + b"[]]}"])
def test_json_that_no_page_sends_is_refused(address, body):
    answer = httpx.post(f"{address}gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "The request" in answer.text


def test_who_says_nothing_is_let_go(address, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    assert raw(address, b"") == b""
    assert raw(address, b"GET / HTTP/1.1\r\nHost:") == b""
    # The second request of a connection is no different.
    where = httpx.URL(address)
    with socket.create_connection((where.host, where.port), timeout=5) as connection:
        connection.sendall(head(address, "GET /robots.txt"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")
        while connection.recv(65536):
            pass
    assert time.monotonic() - began < 4.5


def test_one_address_does_not_take_all_connections(address, monkeypatch):
    monkeypatch.setattr(serving, "is_loopback", lambda host: False)
    monkeypatch.setattr(serving, "MOST_CONNECTIONS_OF_ONE", 3)
    where = httpx.URL(address)
    opened = [socket.create_connection((where.host, where.port), timeout=5) for _ in range(5)]
    answers = []
    for connection in opened:
        try:
            connection.sendall(head(address, "GET /robots.txt"))
            answers.append(connection.recv(65536)[:12])
        except OSError:
            answers.append(b"")
    for connection in opened:
        connection.close()
    assert answers == [b"HTTP/1.1 200"] * 3 + [b""] * 2


def test_an_address_of_the_newer_kind():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with own_folder() as files, serve(page(), files, "::1", None, None) as url:
        assert url.startswith("http://[::1]:") and httpx.get(url).status_code == 200


def test_brackets_in_a_text_are_no_depth():
    limits.check_shape(json.dumps({"data": ["[" * 100_000 + '"{\\' * 1000, "{" * 9]}).encode())
    for shaped in (b'"' + b'\\"[' * 200_000, b'"' * 200_001 + b"[" * 40, b'["' * 40 + b"\\"):
        try:
            limits.check_shape(shaped)  # it takes no time that grows faster than the text
        except limits.Refused as refused:
            assert refused.status == 400
    with pytest.raises(limits.Refused, match="too deep"):
        limits.check_shape(b'{"a":' * 40 + b"1" + b"}" * 40)


def test_who_sends_slowly_is_let_go(address, monkeypatch):
    from workbench_app import security

    async def brief(receive, length, most):
        return await limits.whole_body(receive, length, most, 0.3)

    monkeypatch.setattr(security, "whole_body", brief)
    answer = raw(address, head(address, "POST /gradio_api/cancel", "Content-Length: 50") + b"{")
    assert answer.startswith(b"HTTP/1.1 408")


SAID = [("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "https"), ("x-forwarded-prefix", "/evil"),
        ("forwarded", "host=evil.example;proto=https"), ("x-gradio-server", "http://evil.example"),
        ("x-original-url", "/evil.example"), ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-server", "evil.example")]  # fmt: skip


@pytest.mark.parametrize("header,value", SAID, ids=[name for name, _ in SAID])
def test_what_a_proxy_would_say_changes_nothing(address, header, value):
    for path in ("", "config"):
        plain, said = (httpx.get(address + path, headers=headers) for headers in ({}, {header: value}))
        assert said.status_code == plain.status_code == 200
        assert "evil" not in said.text and "https://127.0.0.1" not in said.text
    assert httpx.get(f"{address}config", headers={header: value}).json()["root"] == address.rstrip("/")


ELSEWHERE = ["http://127.0.0.1:9", "http://localhost:3000", "https://evil.example", "null"]


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_other_pages_get_nothing(address, origin):
    for method, path in [("GET", "config"), ("POST", "gradio_api/queue/join"), ("POST", "gradio_api/cancel")]:
        answer = httpx.request(method, address + path, headers={"origin": origin})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = {"origin": origin, "access-control-request-method": "POST"}
    answer = httpx.options(f"{address}gradio_api/queue/join", headers=asked)
    assert answer.status_code in (403, 405)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_another_port_of_this_machine_is_another_page(address):
    for site in ("same-site", "cross-site"):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert httpx.get(f"{address}gradio_api/heartbeat/x", headers=headers).status_code == 403
        opened = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        assert httpx.get(address, headers=opened).status_code == 200
        assert httpx.post(f"{address}gradio_api/cancel", headers=opened).status_code == 403


def test_the_page_itself_may_ask(address):
    own = {"origin": address.rstrip("/"), "sec-fetch-site": "same-origin"}
    answer = httpx.get(f"{address}config", headers=own)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    joined = call(address, "b", headers=own)
    assert joined.status_code == 200 and joined.json()["data"] == ["b"]


def call(address, value, **options):
    body = {"data": [value], "fn_index": 0, "session_hash": "s"}
    return httpx.post(f"{address}gradio_api/run/predict", json=body, timeout=30, **options)


def test_the_log_is_bounded_whatever_is_sent(capsys):
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, None) as url:
        answer = call(url, "x" * 1_000_000)
        assert answer.status_code == 500
    said = capsys.readouterr()
    assert 0 < len(said.err + said.out) < 30_000
    assert "characters left out" in said.err + said.out


def test_a_file_is_saved_and_not_shown_as_this_page():
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, None) as url:
        (files / "report.html").write_text("<script>1</script>")
        answer = httpx.get(f"{url}gradio_api/file={files / 'report.html'}")
        assert answer.status_code == 200 and answer.text == "<script>1</script>"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]


def test_no_sockets_and_no_strange_methods(address):
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    assert b"101" not in raw(address, head(address, "GET /gradio_api/queue/join", *upgrade, "Connection: close"))[:20]
    for method in ("PUT", "DELETE", "TRACE", "PATCH"):
        assert httpx.request(method, address).status_code == 405


@pytest.mark.parametrize("place", ["gradio_api/startup-events", "gradio_api/call/predict", "monitoring", "?deep_link=x",
                                   "gradio_api/token", "gradio_api/dev/reload", "docs", "gradio_api/openapi.json",
                                   "gradio_api/proxy=http://127.0.0.1/", "gradio_api/custom_component/1/a/b/c",
                                   "static/../../routes.py", "assets/%2e%2e/%2e%2e/%2e%2e/routes.py"])  # fmt: skip
def test_what_the_page_never_asks_for_is_not_there(address, place):
    answer = raw(address, head(address, f"GET /{place}", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 40"), answer[:100]


def enter(url, password, user="workbench", **options):
    return httpx.post(f"{url}login", data={"username": user, "password": password}, timeout=30, **options)


def test_the_password_opens_and_nothing_else_does(locked, monkeypatch):
    monkeypatch.setattr(login, "FIRST_PAUSE", 0.0)
    assert "auth_required" in httpx.get(locked).text
    for user, password in [("workbench", "wrong"), ("other", PASSWORD), ("workbench", ""), ("workbench", "é\ud800")]:
        assert enter(locked, password.encode("utf-8", "surrogatepass"), user).status_code in (400, 422)
    right = enter(locked, PASSWORD)
    assert right.status_code == 200
    keys = {name: value for name, value in right.cookies.items()}
    cookie = {"cookie": "; ".join(f"{name}={value}" for name, value in keys.items())}
    assert keys and httpx.get(f"{locked}config", headers=cookie).status_code == 200
    assert call(locked, "a", headers=cookie).json()["data"] == ["a"]
    others = {name: ("y" if value[0] == "x" else "x") + value[1:] for name, value in keys.items()}
    wrong = {"cookie": "; ".join(f"{name}={value}" for name, value in others.items())}
    assert call(locked, "a", headers=wrong).status_code == 401


def test_wrong_passwords_are_slowed_down_and_many_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(login, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(login, "LONGEST_WAIT", 1.1)
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, PASSWORD) as url:
        began, answers = time.monotonic(), []
        crowd = [threading.Thread(target=lambda: answers.append(enter(url, "wrong").status_code)) for _ in range(8)]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()
        # Two find their turn in time; on a busy machine, where they come one after the other, one or two more.
        assert 2 <= answers.count(400) <= 4 and answers.count(400) + answers.count(429) == 8
        assert time.monotonic() - began >= 0.9


def test_attempts_of_one_address_hold_up_no_other_and_stay_few():
    now = [0.0]
    attempts = login.Attempts(lambda: now[0])
    waits = [attempts.turn("10.0.0.1") for _ in range(9)]
    assert waits == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 23.5, None, None]
    assert attempts.turn("10.0.0.2") == 0.0
    assert attempts.turn("2001:db8::1") == 0.0 and attempts.turn("2001:db8::2") == 0.5
    assert attempts.turn("::ffff:10.0.0.2") == 0.5
    now[0] = 40.0
    assert attempts.turn("10.0.0.1") == 0.0 and attempts.turn("10.0.0.1") == login.LONGEST_PAUSE
    attempts.right("10.0.0.1")
    assert [attempts.turn("10.0.0.1") for _ in range(2)] == [0.0, 0.5]
    now[0] += 2 * login.FORGOTTEN
    assert attempts.turn("10.0.0.2") == 0.0
    for number in range(3 * login.MOST_ADDRESSES):
        attempts.turn(f"a{number}")
    assert len(attempts) == login.MOST_ADDRESSES


def test_the_requests_of_the_page_fit(address):
    """The longest prompt, of characters that need the most bytes."""
    from workbench_app.loaded import MOST_CHARACTERS

    assert len(json.dumps("\U0001f999" * (MOST_CHARACTERS // 2)).encode()) < MOST_BODY


@pytest.mark.browser
def test_the_login_page_lets_in_with_the_password_only(browser, locked):
    context = browser.new_context()
    visitor = context.new_page()
    visitor.set_default_timeout(30_000)
    visitor.goto(locked)
    for given, seen in [("wrong", "Incorrect"), (PASSWORD, "go")]:
        visitor.get_by_label("username").fill("workbench")
        visitor.get_by_label("password").fill(given)
        visitor.get_by_role("button", name="Login").click()
        visitor.get_by_text(seen).first.wait_for()
    visitor.get_by_role("button", name="go").click()
    visitor.wait_for_function("[...document.querySelectorAll('textarea')].some(box => box.value === 'a')")
    context.close()


def test_the_handlers_of_others_stay_open():
    class Handler(logging.NullHandler):
        closed = False

        def close(self):
            self.closed = True
            super().close()

    handler = Handler()
    with own_folder() as files, serve(page(), files, "127.0.0.1", None, None):
        assert not handler.closed
