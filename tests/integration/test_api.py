"""The API as clients meet it: curl and Python's requests drive a whole life; statuses, headers and texts.

Which field means what is tested with the tables (tests/unit); here it is the real program, over its socket.
"""
import json
import os
import re
import subprocess

import pytest
import requests_unixsocket

from harness import images, tiny
from harness.api import request_bytes
from harness.clock import scaled
from harness.guest import BOOT_ARGUMENTS, Guest
from harness.workshop import log_of

NOT_BEFORE = "The requested operation is not supported before starting the microVM."
NOT_AFTER = "The requested operation is not supported after starting the microVM."
JSON_INTRODUCTION = "An error occurred when deserializing the json body of a request: "
DEVICE_MODEL = "virtio-net, virtio-blk, serial and i8042"


@pytest.fixture
def api(workshop):
    """The API of a monitor in which nothing is configured."""
    return workshop.monitor(api=True).api


class TestHeaders:
    """What stands around a body, in answers of every kind."""

    pytestmark = pytest.mark.host

    def test_data(self, api):
        answer = api.request("GET", "/")
        assert (answer.version, answer.status, answer.reason) == ("HTTP/1.1", 200, "OK")
        assert answer.header("Server") and answer.header("Connection") == "keep-alive"
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("Content-Length") == str(len(answer.body))
        assert answer.header("Deprecation") is None
        assert answer.json == {"id": "anonymous-instance", "state": "Not started", "app_name": "Mayfly",
                               "vmm_version": api.get("/version")["mayfly_version"]}

    def test_success_without_data(self, api):
        answer = api.request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 16})
        assert (answer.status, answer.reason, answer.body) == (204, "No Content", b"")
        assert answer.header("Content-Length") is None and answer.header("Content-Type") is None
        assert answer.header("Server") and answer.header("Connection") == "keep-alive"

    def test_refusal(self, api):
        answer = api.request("PUT", "/actions", {"action_type": "FlushMetrics"})
        assert (answer.status, answer.reason) == (400, "Bad Request")
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("Connection") == "keep-alive"
        assert answer.json == {"fault_message": NOT_BEFORE}

    def test_a_deprecated_field_is_marked(self, api):
        body = {"vcpu_count": 1, "mem_size_mib": 16, "cpu_template": "None"}
        assert api.request("PUT", "/machine-config", body).header("Deprecation") == "true"

    def test_connections_are_kept_for_many_requests(self, api):
        with api.connect() as connection:
            for _ in range(100):
                assert connection.request("GET", "/version").status == 200

    def test_close_is_honoured(self, api):
        with api.connect() as connection:
            answer = connection.request("GET", "/", headers=["Connection: close"])
            assert answer.status == 200 and answer.header("Connection") == "close"
            assert connection.read_end() == b""

    def test_http_1_0_closes_unless_asked_to_stay(self, api):
        with api.connect() as connection:
            connection.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n")
            assert connection.read_answer().header("Connection") == "keep-alive"
            assert connection.read_answer().status == 200
            assert connection.read_end() == b""

    def test_expect_100_continue(self, api):
        body = json.dumps({"vcpu_count": 3, "mem_size_mib": 16}).encode()
        with api.connect() as connection:
            connection.send(b"PUT /machine-config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
                            % len(body))
            assert connection.read_head().status == 100
            connection.send(body)
            assert connection.read_answer().status == 204
        assert api.get("/machine-config")["vcpu_count"] == 3


class TestTexts:
    """The sentences of the contract, word by word."""

    pytestmark = pytest.mark.host

    @pytest.mark.parametrize("method, path", [
        ("GET", "/nonsense"), ("GET", "/actions"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/actions"),
        ("PATCH", "/boot-source"), ("GET", "/drives/a"), ("GET", "/vm/config/x"), ("OPTIONS", "/")])
    def test_bad_method_or_path(self, api, method, path):
        body = {} if method in ("PUT", "PATCH", "POST") else None
        assert api.refusal(method, path, body) == f"Invalid request method and/or path: {method} {path}."

    def test_bodies_missing_or_too_many(self, api):
        assert api.refusal("PUT", "/actions") == "Empty PUT request."
        assert api.refusal("PATCH", "/machine-config") == "Empty PATCH request."
        assert api.refusal("GET", "/", {}) == "GET request cannot have a body."

    def test_ids(self, api):
        body = {"drive_id": "x", "path_on_host": "/x", "is_root_device": False}
        assert api.refusal("PUT", "/drives/", body) == "The ID cannot be empty."
        assert api.refusal("PUT", "/drives/a-b", body) == (
            "API Resource IDs can only contain alphanumeric characters and underscores.")
        assert "does not match" in api.refusal("PUT", "/drives/other", body)

    @pytest.mark.parametrize("body, words", [
        (b"{", "line 1 column"),
        (b"nonsense", "line 1 column"),
        (b'{"action_type": 7}', "invalid type: integer `7`, expected a string"),
        (b'{"action_type": null}', "action_type"),
        (b'{"action_type": "Dance"}', "unknown variant `Dance`, expected one of `InstanceStart`"),
        (b"{}", "missing field `action_type`"),
        (b'{"action_type": "InstanceStart", "speed": 1}', "unknown field `speed`, expected `action_type`"),
        (b'{"action_type": "FlushMetrics", "action_type": "FlushMetrics"}', "duplicate field `action_type`"),
        (b'["action_type"]', "invalid type: sequence"),
        (b'"InstanceStart"', "invalid type: string"),
        (b'{"action_type": "\xff\xfe"}', "UTF-8"),
        (b'{"action_type": "a\\u0000b"}', "line 1"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "recursion limit exceeded"),
        (b'{"action_type": "FlushMetrics"} {}', "trailing characters"),
        (b'{"action_type": 1e999}', "number out of range"),
    ], ids=lambda value: ascii(value)[:40] if isinstance(value, bytes) else None)
    def test_bad_json(self, api, body, words):
        text = api.refusal("PUT", "/actions", body)
        assert text.startswith(JSON_INTRODUCTION) and words in text

    @pytest.mark.parametrize("path", ["/vsock", "/balloon", "/balloon/statistics", "/entropy", "/pmem/a",
                                      "/hotplug/memory"])
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
    def test_devices_outside_the_model_are_refused_with_the_reason(self, api, method, path):
        text = api.refusal(method, path, None if method == "GET" else {})
        assert DEVICE_MODEL in text and "on purpose" in text and path in text

    @pytest.mark.parametrize("path", ["/mmds", "/mmds/config", "/cpu-config"])
    def test_what_is_not_there_yet_is_refused_by_name(self, api, path):
        text = api.refusal("PUT", path, {})
        assert path in text and "not supported by this version" in text

    def test_a_vhost_user_drive_is_refused_with_the_reason(self, api):
        text = api.refusal("PUT", "/drives/a", {"drive_id": "a", "is_root_device": False,
                                                "path_on_host": "/x", "socket": "/tmp/s"})
        assert "`socket`" in text and DEVICE_MODEL in text

    @pytest.mark.parametrize("body, words", [
        ({"vcpu_count": 0, "mem_size_mib": 16}, "vCPU"),
        ({"vcpu_count": 33, "mem_size_mib": 16}, "vCPU"),
        ({"vcpu_count": 3, "mem_size_mib": 16, "smt": True}, "vCPU"),
        ({"vcpu_count": 1, "mem_size_mib": 0},
         "The memory size (MiB) is either 0, or not a multiple of the configured page size."),
        ({"vcpu_count": 1, "mem_size_mib": 3}, "`mem_size_mib` is 3"),
        ({"vcpu_count": 1, "mem_size_mib": 17, "huge_pages": "2M"},
         "The memory size (MiB) is either 0, or not a multiple of the configured page size."),
        ({"vcpu_count": 1, "mem_size_mib": 1 << 25}, "more than the"),
        ({"vcpu_count": 1, "mem_size_mib": (1 << 63) - 1}, "mem_size_mib"),
        ({"vcpu_count": 1, "mem_size_mib": -1}, "integer `-1`"),
        ({"vcpu_count": 1.5, "mem_size_mib": 16}, "floating point `1.5`"),
        ({"vcpu_count": "1", "mem_size_mib": 16}, 'string "1"'),
        ({"vcpu_count": 1, "mem_size_mib": 16, "huge_pages": "1G"}, "unknown variant `1G`"),
        ({"vcpu_count": 1, "mem_size_mib": 16, "cpu_template": "T2"}, "`T2`"),
        ({"vcpu_count": 1}, "missing field `mem_size_mib`"),
    ], ids=lambda value: json.dumps(value) if isinstance(value, dict) else None)
    def test_machines_that_cannot_be(self, api, body, words):
        before = api.get("/machine-config")
        assert words in api.refusal("PUT", "/machine-config", body)
        assert api.get("/machine-config") == before

    def test_patch_changes_what_it_names_and_nothing_else(self, api):
        api.put("/machine-config", {"vcpu_count": 2, "mem_size_mib": 64, "smt": True})
        api.patch("/machine-config", {"mem_size_mib": 128})
        machine = api.get("/machine-config")
        assert (machine["vcpu_count"], machine["mem_size_mib"], machine["smt"]) == (2, 128, True)
        assert api.refusal("PATCH", "/machine-config", {}) == "Empty PATCH request."
        assert "vCPU" in api.refusal("PATCH", "/machine-config", {"vcpu_count": 3})
        assert api.get("/machine-config") == machine

    @pytest.mark.parametrize("method, path, body", [
        ("PUT", "/actions", {"action_type": "FlushMetrics"}),
        ("PUT", "/actions", {"action_type": "SendCtrlAltDel"}),
        ("PATCH", "/vm", {"state": "Paused"}),
        ("PATCH", "/vm", {"state": "Resumed"}),
        ("PATCH", "/drives/a", {"drive_id": "a", "path_on_host": "/x"})])
    def test_refused_before_the_start(self, api, method, path, body):
        assert api.refusal(method, path, body) == NOT_BEFORE

    def test_a_start_without_a_kernel_is_refused(self, api):
        assert "kernel" in api.refusal("PUT", "/actions", {"action_type": "InstanceStart"})
        assert api.state() == "Not started"


@pytest.mark.guest
@pytest.mark.usefixtures("kvm")
class TestAfterStart:
    def test_refused_after_the_start(self, workshop):
        disk = workshop.disk("disk", 512)
        monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER, drives=[{"path": disk, "drive_id": "a"}])
        api, before = monitor.api, monitor.api.get("/vm/config")
        for method, path, body in [
                ("PUT", "/boot-source", {"kernel_image_path": "/x"}),
                ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 16}),
                ("PATCH", "/machine-config", {"vcpu_count": 1}),
                ("PUT", "/logger", {"level": "Error"}),
                ("PUT", "/metrics", {"metrics_path": str(workshop.path("m"))}),
                ("PUT", "/serial", {"serial_out_path": str(workshop.path("s"))}),
                ("PUT", "/drives/a", workshop.drive(disk, "a")),
                ("PUT", "/actions", {"action_type": "InstanceStart"})]:
            assert api.refusal(method, path, body) == NOT_AFTER, (method, path)
        assert api.get("/vm/config") == before
        assert api.state() == "Running"
        assert not workshop.path("m").exists()

    def test_patch_of_a_drive_that_is_none(self, workshop):
        monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER)
        assert "none" in monitor.api.refusal("PATCH", "/drives/none", {"drive_id": "none", "path_on_host": "/x"})

    def test_flush_metrics_writes_one_line_of_json(self, workshop):
        path = workshop.path("metrics")
        monitor = workshop.boot_tiny(tiny.COUNT, "--metrics-path", path)
        monitor.api.state()  # answered once the start is over
        lines = len(path.read_text().splitlines())
        monitor.api.put("/actions", {"action_type": "FlushMetrics"})
        text = path.read_text().splitlines()
        assert len(text) == lines + 1 and isinstance(json.loads(text[-1]), dict)
        assert json.loads(text[-1])["utc_timestamp_ms"] > 0
        monitor.end()
        assert len(path.read_text().splitlines()) == lines + 2
        assert path.stat().st_mode & 0o777 == 0o600

    def test_flush_metrics_without_metrics_is_refused(self, workshop):
        monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER)
        assert "metrics" in monitor.api.refusal("PUT", "/actions", {"action_type": "FlushMetrics"})

    def test_the_log_has_the_form_of_the_contract(self, workshop):
        log = workshop.path("log")
        monitor = workshop.monitor("--id", "name-1", "--log-path", log, "--level", "Info", "--show-level",
                                   "--show-log-origin", api=True)
        monitor.log_path = log
        monitor.api.get("/")
        monitor.end()
        for line in log_of(monitor).splitlines():
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9} \[name-1:[\w-]+:(Info|Warn|Error):"
                                r"[a-z0-9_/]+\.c:\d+\] .+", line), line
        assert log.stat().st_mode & 0o777 == 0o600


class TestHttp:
    """Bytes that are no request, too many, too slow, too long."""

    pytestmark = pytest.mark.host

    @pytest.mark.parametrize("data, words", [
        (b"\r\n\r\n\r\n", "request line"),
        (b"GET\r\n\r\n", "request line"),
        (b"GET / HTTP/2.0\r\n\r\n", "Unsupported HTTP version"),
        (b"GET / FTP/1.1\r\n\r\n", "Unsupported HTTP version"),
        (b"G\x00T / HTTP/1.1\r\n\r\n", "bad HTTP method"),
        (b"GET x HTTP/1.1\r\n\r\n", "slash"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "not printable"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "CR LF"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "Name: value"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", "Name: value"),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", "Name: value"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "Content-Length is not a number"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "Content-Length is not a number"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "more than one Content-Length"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (b"PUT / HTTP/1.1\r\nExpect: miracles\r\n\r\n", "Expect"),
        (b"GET /" + b"x" * 1100 + b" HTTP/1.1\r\n\r\n", "longer than 1024"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 1100 + b"\r\n\r\n", "longer than 1024"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", "more than"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", "51201 is larger than the limit of 51200"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "larger than the limit"),
        (os.urandom(4096).replace(b"\r\n", b"xx") + b"\r\n\r\n", ""),
    ], ids=lambda value: ascii(value[:30]) if isinstance(value, bytes) else None)
    def test_malformed_requests_get_an_error_and_the_connection_closes(self, api, data, words):
        with api.connect() as connection:
            connection.send(data)
            answer = connection.read_answer()
            assert answer.status == 400 and set(answer.json) == {"error"}
            assert words in answer.json["error"]
            assert answer.header("Connection") == "close"
            assert connection.read_end() == b""
        assert api.state() == "Not started"

    def test_a_request_byte_by_byte(self, api):
        with api.connect() as connection:
            for byte in request_bytes("PUT", "/machine-config", {"vcpu_count": 5, "mem_size_mib": 32}):
                connection.send(bytes([byte]))
            assert connection.read_answer().status == 204
        assert api.get("/machine-config")["vcpu_count"] == 5

    def test_slow_clients_hold_up_nobody(self, api):
        slow = [api.connect() for _ in range(8)]
        for number, connection in enumerate(slow):
            connection.send(request_bytes("GET", "/")[:number + 1])
        for _ in range(20):
            assert api.state() == "Not started"
        for number, connection in enumerate(slow):
            connection.send(request_bytes("GET", "/")[number + 1:])
            assert connection.read_answer().status == 200
            connection.close()

    def test_pipelined_requests_are_answered_in_order(self, api):
        with api.connect() as connection:
            count = 50
            connection.send(b"".join(
                request_bytes("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 16 + number})
                + request_bytes("GET", "/machine-config") for number in range(count)))
            for number in range(count):
                assert connection.read_answer().status == 204
                assert connection.read_answer().json["mem_size_mib"] == 16 + number

    def test_the_largest_body_is_taken(self, api):
        text = json.dumps({"kernel_image_path": "/x"})
        assert "No such file" in api.refusal("PUT", "/boot-source", text.ljust(51200).encode())

    def test_the_limit_of_bodies_can_be_set(self, workshop):
        api = workshop.monitor("--http-api-max-payload-size", "100", api=True).api
        assert api.request("PUT", "/actions", b" " * 100).status == 400
        answer = api.request("PUT", "/actions", b" " * 101)
        assert answer.status == 400 and "limit of 100" in answer.json["error"]

    def test_ten_connections_are_served_and_the_eleventh_is_told(self, api):
        connections = [api.connect() for _ in range(10)]
        for connection in connections:
            assert connection.request("GET", "/").status == 200
        with api.connect() as surplus:
            answer = surplus.read_answer()
            assert (answer.status, answer.reason) == (503, "Service Unavailable")
            assert set(answer.json) == {"error"} and answer.header("Connection") == "close"
            assert surplus.read_end() == b""
        connections.pop().close()
        for connection in connections:
            assert connection.request("GET", "/").status == 200
        assert api.state() == "Not started"
        for connection in connections:
            connection.close()

    def test_a_client_that_is_gone_before_the_answer(self, api):
        for _ in range(100):
            with api.connect() as connection:
                connection.send(request_bytes("GET", "/vm/config") * 20)
        assert api.state() == "Not started"

    def test_half_closed_clients_get_their_answers(self, api):
        with api.connect() as connection:
            connection.send(request_bytes("GET", "/version") * 3)
            connection.socket.shutdown(1)
            for _ in range(3):
                assert connection.read_answer().status == 200
            assert connection.read_end() == b""


class Curl:
    """curl, as people type it."""

    def __init__(self, socket_path):
        self.socket_path = socket_path

    def __call__(self, method, path, body=None):
        command = ["curl", "--silent", "--show-error", "--unix-socket", self.socket_path, "-X", method,
                   "-w", "\n%{http_code}", f"http://localhost{path}"]
        if body is not None:
            command += ["-H", "Accept: application/json", "-H", "Content-Type: application/json",
                        "-d", json.dumps(body)]
        output = subprocess.run(command, capture_output=True, text=True, check=True,
                                timeout=scaled(60)).stdout
        text, status = output.rsplit("\n", 1)
        return int(status), json.loads(text) if text else None


class Requests:
    """Python's requests-unixsocket."""

    def __init__(self, socket_path):
        self.base = "http+unix://" + str(socket_path).replace("/", "%2F")
        self.session = requests_unixsocket.Session()

    def __call__(self, method, path, body=None):
        answer = self.session.request(method, self.base + path, json=body, timeout=scaled(60))
        return answer.status_code, answer.json() if answer.content else None


@pytest.mark.once
@pytest.mark.guest
@pytest.mark.parametrize("client", [Curl, Requests])
def test_a_whole_session(workshop, kernel, client):
    """From nothing to a Linux guest, paused, resumed, asked, and ended by its own reboot."""
    monitor = workshop.monitor("--id", "session", api=True)
    call = client(monitor.socket_path)
    disk = workshop.copy_of(images.root_disk(), "root.ext4")
    metrics, log = workshop.path("metrics"), workshop.path("log")
    arguments = f"{BOOT_ARGUMENTS} {kernel.arguments} {'' if kernel.with_acpi else 'acpi=off'}"
    assert call("GET", "/")[1]["state"] == "Not started"
    for path, body in [
            ("/logger", {"log_path": str(log), "level": "Debug", "show_level": True, "show_log_origin": True}),
            ("/metrics", {"metrics_path": str(metrics)}),
            ("/boot-source", {"kernel_image_path": str(kernel.path), "boot_args": arguments,
                              "initrd_path": str(images.initrd(kernel))}),
            ("/machine-config", {"vcpu_count": 1, "mem_size_mib": 256}),
            ("/drives/rootfs", {"drive_id": "rootfs", "path_on_host": str(disk), "is_root_device": True,
                                "is_read_only": False})]:
        assert call("PUT", path, body) == (204, None)
    assert call("PATCH", "/machine-config", {"mem_size_mib": 192}) == (204, None)
    status, text = call("PUT", "/boot-source", {"kernel_image_path": "/nonexistent"})
    assert status == 400 and set(text) == {"fault_message"}
    assert text["fault_message"].startswith(
        "The kernel file cannot be opened: No such file or directory (os error 2)")
    assert call("PUT", "/actions", {"action_type": "InstanceStart"}) == (204, None)
    guest = Guest(monitor, kernel).wait_ready()
    assert call("GET", "/")[1] == {"id": "session", "state": "Running", "app_name": "Mayfly",
                                   "vmm_version": call("GET", "/version")[1]["mayfly_version"]}
    configuration = call("GET", "/vm/config")[1]
    assert configuration["machine-config"]["mem_size_mib"] == 192
    assert configuration["drives"][0]["drive_id"] == "rootfs"
    assert call("PATCH", "/vm", {"state": "Paused"}) == (204, None)
    assert call("GET", "/")[1]["state"] == "Paused"
    assert call("PATCH", "/vm", {"state": "Resumed"}) == (204, None)
    assert guest.run("echo here").strip() == "here"
    assert call("PUT", "/actions", {"action_type": "FlushMetrics"}) == (204, None)
    assert json.loads(metrics.read_text().splitlines()[-1])["uart"]["write_count"] > 0
    assert "Debug" in log.read_text() or "Info" in log.read_text()
    if kernel.keyboard:
        assert call("PUT", "/actions", {"action_type": "SendCtrlAltDel"}) == (204, None)
        assert monitor.wait(60) == 0
    else:
        assert guest.reboot() == 0
    assert not monitor.socket_path.exists()
