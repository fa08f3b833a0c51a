"""Wrong use, on the command line, in a config file and through the API: what is said, and how it ends.

No guest runs here; the kernels are files that no start would take.
"""
import pytest

pytestmark = pytest.mark.host

WRONG_USE = 153
BAD_CONFIGURATION = 152


def complaint(done):
    """The one line on standard error that is mayfly's, not its log's."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("mayfly: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("mayfly: ")


@pytest.fixture
def start(workshop):
    """Starts a config file with these sections; returns the exit code and the complaint without the file's name."""
    def run(sections):
        path = workshop.file("vm.json", sections)
        done = workshop.run("--no-api", "--config-file", path)
        text = complaint(done)
        assert text.count(str(path)) == 1, text
        return done.returncode, text

    return run


@pytest.fixture
def kernel_file(workshop):
    return str(workshop.file("kernel", b"no kernel"))


class TestCommandLine:
    @pytest.mark.parametrize("arguments", [("--level", "loud"), ("--id", "a_b"), ("--colour",),
                                           ("run", "--kernel", "k", "--mem", "3M")])
    def test_wrong_use_has_a_status_of_its_own(self, workshop, arguments):
        done = workshop.run(*arguments)
        assert done.returncode == WRONG_USE
        assert arguments[-2 if len(arguments) > 1 else -1] in complaint(done)

    def test_run_names_the_file_that_is_missing(self, workshop):
        done = workshop.run("run", "--kernel", "/missing/kernel")
        assert done.returncode == BAD_CONFIGURATION
        assert complaint(done) == ("The kernel file cannot be opened: No such file or directory "
                                   "(os error 2): /missing/kernel")


class TestConfigFile:
    @pytest.mark.parametrize("text", ["", "[]", "{", '{"unknown": 1}'])
    def test_what_cannot_be_read_names_the_file_once(self, start, text):
        status, _ = start(text)
        assert status == BAD_CONFIGURATION

    def test_values_name_their_section(self, start, kernel_file):
        source = {"kernel_image_path": kernel_file}
        for sections, where in (
                ({"boot-source": {"kernel_image_path": "/missing"}}, "section `boot-source`: "),
                ({"boot-source": source, "logger": {"level": "loud"}}, "section `logger`: "),
                ({"boot-source": source, "metrics": {"metrics_path": "/missing/m"}},
                 "section `metrics`: "),
                ({"boot-source": source, "machine-config": {"vcpu_count": 3, "mem_size_mib": 64,
                                                            "smt": True}},
                 "section `machine-config`: ")):
            status, text = start(sections)
            assert status == BAD_CONFIGURATION
            assert where in text

    def test_a_drive_names_its_entry(self, start, workshop, kernel_file):
        drive = {"drive_id": "a", "path_on_host": str(workshop.disk("disk", 1 << 20)),
                 "is_root_device": False}
        for second in (dict(drive, drive_id="a-b"), dict(drive, drive_id="a"),
                       dict(drive, drive_id="b", path_on_host="/missing")):
            status, text = start({"boot-source": {"kernel_image_path": kernel_file},
                                  "drives": [drive, second]})
            assert status == BAD_CONFIGURATION
            assert "section `drives`, entry 1: " in text

    def test_every_section_may_be_null(self, start, kernel_file):
        _, text = start({"boot-source": {"kernel_image_path": kernel_file}, "drives": None,
                         "machine-config": None, "serial": None, "logger": None, "metrics": None,
                         "vsock": None, "balloon": None, "network-interfaces": None})
        assert "neither an ELF file nor a bzImage" in text


class TestApi:
    def test_a_directory_is_no_kernel(self, workshop):
        api = workshop.monitor(api=True).api
        answer = api.request("PUT", "/boot-source", {"kernel_image_path": str(workshop.folder)})
        assert answer.fault == f"The kernel file {workshop.folder} is a directory"

    def test_what_can_be_no_kernel_or_initrd_is_refused_when_it_is_named(self, workshop, kernel_file):
        api = workshop.monitor(api=True).api
        empty = workshop.file("empty")
        for field, role in ("kernel_image_path", "kernel"), ("initrd_path", "initrd"):
            for path, what in (empty, "is empty"), ("/dev/null", "is not a regular file"):
                body = {"kernel_image_path": kernel_file, field: str(path)}
                assert api.refusal("PUT", "/boot-source", body) == f"The {role} file {path} {what}"
        assert "boot-source" not in api.get("/vm/config")

    def test_the_logger_keeps_what_a_later_put_leaves_out(self, workshop):
        api = workshop.monitor(api=True).api
        log = str(workshop.path("log"))
        first = {"log_path": log, "level": "Debug", "show_level": True, "show_log_origin": False}
        assert api.request("PUT", "/logger", first).status == 204
        assert api.request("PUT", "/logger", {"module": "src"}).status == 204
        kept = api.request("GET", "/vm/config").json["logger"]
        assert kept == {**first, "module": "src"}

    def test_a_level_is_shown_in_one_spelling(self, workshop):
        api = workshop.monitor(api=True).api
        for given, shown in ("warn", "Warning"), ("WARNING", "Warning"), ("debug", "Debug"):
            assert api.request("PUT", "/logger", {"level": given}).status == 204
            assert api.request("GET", "/vm/config").json["logger"]["level"] == shown

    def test_an_end_before_the_start_is_no_error(self, workshop):
        metrics, log = workshop.path("metrics"), workshop.path("log")
        monitor = workshop.monitor("--metrics-path", metrics, "--log-path", log, api=True)
        assert monitor.end() == 143
        assert "ended by signal 15" in log.read_text()
        assert "metrics" not in log.read_text()
        assert metrics.read_bytes() == b""
