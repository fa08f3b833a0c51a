"""api/openapi.yaml is true: held against the program's own tables, both ways, and against answers.

The program api_dump, built beside the unit tests, prints the tables and the routes.
"""
import copy
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# The schema of each table. A PATCH of the machine goes through the same table, with all optional.
SCHEMAS = {
    "boot-source": "BootSource",
    "machine-config": "MachineConfig",
    "drives": "Drive",
    "drive update": "DriveUpdate",
    "network-interfaces": "NetworkInterface",
    "network interface update": "NetworkInterfaceUpdate",
    "rate limiter": "RateLimiter",
    "token bucket": "TokenBucket",
    "serial": "Serial",
    "logger": "Logger",
    "metrics": "Metrics",
    "action": "Action",
    "microVM state": "VmState",
    "snapshot": "SnapshotCreate",
    "snapshot load": "SnapshotLoad",
    "snapshot fork": "SnapshotFork",
    "memory backend": "MemBackend",
    "network override": "NetworkOverride",
    "drive override": "DriveOverride",
}
SECTIONS = {"boot-source", "machine-config", "serial", "logger", "metrics"}
METHODS = ("get", "put", "patch")

pytestmark = pytest.mark.host


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice; the ordinary loader takes the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys} {node.start_mark}"
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="module")
def description():
    with open(REPOSITORY / "api/openapi.yaml", encoding="utf-8") as file:
        return yaml.load(file, Loader)


@pytest.fixture(scope="module")
def tables(program):
    dump = os.environ.get("MAYFLY_API_DUMP") or program.parent / "tests/unit/api_dump"
    return json.loads(subprocess.run([dump], check=True, capture_output=True).stdout)


def follow(description, schema):
    while "$ref" in schema:
        node = description
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def as_json_schema(node):
    """OpenAPI 3.0 says `nullable` where JSON Schema says a second type."""
    if isinstance(node, list):
        return [as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: as_json_schema(value) for key, value in node.items()}
    if node.pop("nullable", False):
        if "type" in node:
            node["type"] = [node["type"], "null"]
        forms = node.pop("allOf", None) or node.pop("anyOf", None)
        if forms:
            node["anyOf"] = [*forms, {"type": "null"}]
    return node


def validator(description, schema):
    document = as_json_schema(copy.deepcopy(description))
    return jsonschema.Draft4Validator({"components": document["components"], **as_json_schema(schema)})


def described_field(description, schema, name, patch=False):
    """A property of a schema, in the words of the dump."""
    said = follow(description, schema["properties"][name])
    field = {"required": name in schema.get("required", []), "nullable": said.get("nullable", False),
             "deprecated": said.get("deprecated", False)}
    if said.get("enum") == [None]:
        field["type"] = "refused"
        return field
    # An object of one form, or of one of several: OpenAPI 3.0 lets nothing stand beside $ref.
    forms = said.get("allOf") or said.get("anyOf")
    if forms:
        schemas = [form["$ref"].rsplit("/", 1)[1] for form in forms]
        field["type"] = "object"
        field["objects"] = [table for table, schema in SCHEMAS.items() if schema in schemas]
        return field
    field["type"] = said["type"]
    if "items" in said:
        item = said["items"]["$ref"].rsplit("/", 1)[1]
        field["objects"] = [table for table, schema in SCHEMAS.items() if schema == item]
        field["maxItems"] = said["maxItems"]
    for key in ("minimum", "maximum", "default"):
        if key in said:
            field[key] = said[key]
    if "enum" in said:
        assert (None in said["enum"]) == field["nullable"], f"{name}: null and nullable disagree"
        field["enum"] = [value for value in said["enum"] if value is not None]
    return field


def table_field(field, patch=False):
    """A field of the dump as the description should have it."""
    field = dict(field)
    # An enumeration is a string to clients.
    field["type"] = {"enum": "string"}.get(field["type"], field["type"])
    if "objects" in field:
        field["objects"] = sorted(field["objects"])
    if patch:
        field.update(required=False, nullable=True)
        field.pop("default", None)
    return field


def compare(description, schema_name, fields, patch=False):
    schema = description["components"]["schemas"][schema_name]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(fields)
    assert set(schema.get("required", [])) <= set(fields)
    for name, field in fields.items():
        assert described_field(description, schema, name) == table_field(field, patch), name


@pytest.mark.parametrize("table, schema", SCHEMAS.items())
def test_every_table_is_described_field_by_field(description, tables, table, schema):
    compare(description, schema, tables["objects"][table], patch=table.endswith(" update"))


def test_partial_machine_is_described_field_by_field(description, tables):
    compare(description, "MachineConfigUpdate", tables["objects"]["machine-config"], patch=True)


def test_no_table_is_left_out(tables):
    assert set(tables["objects"]) == set(SCHEMAS)


@pytest.mark.parametrize("name", ["size", "refill_time", "one_time_burst"])
@pytest.mark.parametrize("value", [None, "x", -1, 1.5, True, [], 1 << 63, "absent"])
@pytest.mark.parametrize("path", ["/drives/id", "/serial"])
def test_what_is_wrong_in_a_bucket_is_refused_as_described(description, workshop, path, name, value):
    api = workshop.monitor(api=True).api
    bucket = {**BUCKET, name: value}
    if value == "absent":
        del bucket[name]
    body = {"rate_limiter": {"ops": bucket}}
    if path == "/drives/id":
        body.update(drive_id="id", is_root_device=False, path_on_host=str(workshop.disk("disk", 1 << 20)))
    schema = "Drive" if path == "/drives/id" else "Serial"
    valid = validator(description, description["components"]["schemas"][schema]).is_valid(body)
    assert valid == (name == "one_time_burst" and value in (None, "absent"))
    assert api.request("PUT", path, body).status == (204 if valid else 400)


def test_every_schema_is_used(description):
    text = json.dumps(description)
    for name in description["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name
    for name in description["components"]["responses"]:
        assert f'"#/components/responses/{name}"' in text, name


def described_routes(description):
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method, path, item, operation


def test_paths_and_methods_are_those_that_are_served(description, tables):
    described = {(method, re.sub(r"/\{[a-z_]+\}", "/{}", path))
                 for method, path, _, _ in described_routes(description)}
    served = {(route["method"], route["path"] + ("/{}" if route["has_id"] else ""))
              for route in tables["routes"]}
    assert described == served


def test_bodies_are_those_that_are_parsed(description, tables):
    served = {}
    for route in tables["routes"]:
        if "body" in route:
            whole = SCHEMAS[route["body"]]
            partial = route["partial"] and route["body"] == "machine-config"
            served[route["method"], route["path"]] = whole + ("Update" if partial else "")
    described = {}
    for method, path, _, operation in described_routes(description):
        if "requestBody" in operation:
            assert operation["requestBody"]["required"] is True
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            name = schema["$ref"].rsplit("/", 1)[1]
            described[method, re.sub(r"/\{[a-z_]+\}", "", path)] = name
    assert described == served


def test_configuration_has_the_schemas_of_its_resources(description, tables):
    properties = description["components"]["schemas"]["VmConfig"]["properties"]
    for section in SECTIONS:
        assert properties[section]["$ref"].rsplit("/", 1)[1] == SCHEMAS[section]
    assert properties["drives"]["items"]["$ref"].endswith("/Drive")
    assert properties["network-interfaces"]["items"]["$ref"].endswith("/NetworkInterface")
    assert set(properties) == SECTIONS | {"drives", "network-interfaces"}


def test_every_operation_describes_its_outcomes(description):
    for method, path, _, operation in described_routes(description):
        answers = method == "get" or path == "/snapshot/fork"
        success = "200" if answers else "204"
        assert set(operation["responses"]) == {success, "400", "503"}, (method, path)
        response = follow(description, operation["responses"][success])
        assert ("content" in response) == answers, (method, path)
        deprecated = False
        if "requestBody" in operation:
            body = follow(description, operation["requestBody"]["content"]["application/json"]["schema"])
            deprecated = any(field.get("deprecated") for field in body["properties"].values())
        assert ("Deprecation" in response.get("headers", {})) == deprecated, (method, path)


def assert_valid(description, method, path, answer):
    """An answer is one that the description of its operation allows."""
    operation = description["paths"][path][method]
    assert str(answer.status) in operation["responses"], answer
    response = follow(description, operation["responses"][str(answer.status)])
    if "content" not in response:
        assert answer.body == b"" and answer.header("Content-Length") is None
        return
    assert answer.header("Content-Type") == "application/json"
    schema = response["content"]["application/json"]["schema"]
    validator(description, schema).validate(answer.json)


BUCKET = {"size": 1 << 20, "refill_time": 100, "one_time_burst": 0}
BODIES = {
    ("put", "/actions"): [{"action_type": "FlushMetrics"}],
    ("put", "/boot-source"): [{"kernel_image_path": "DISK"}, {"kernel_image_path": "DISK", "initrd_path": None}],
    ("put", "/machine-config"): [{"vcpu_count": 2, "mem_size_mib": 64, "cpu_template": "None"}],
    ("patch", "/machine-config"): [{"smt": True, "huge_pages": None}],
    ("put", "/drives/{drive_id}"): [{"drive_id": "id", "is_root_device": True, "path_on_host": "DISK",
                                     "partuuid": "6c3b2ad1-01", "socket": None,
                                     "rate_limiter": {"bandwidth": BUCKET, "ops": None}}],
    ("patch", "/drives/{drive_id}"): [{"drive_id": "id", "path_on_host": "DISK"},
                                       {"rate_limiter": {"ops": BUCKET}}],
    # No TAP: none is made in the network of the machine that tests.
    ("put", "/network-interfaces/{iface_id}"): [{"iface_id": "id", "host_dev_name": "lo", "mtu": 1500,
                                                 "guest_mac": "06:00:AC:10:00:02", "tx_rate_limiter": None,
                                                 "rx_rate_limiter": {"ops": BUCKET}}],
    ("patch", "/network-interfaces/{iface_id}"): [{"iface_id": "id", "rx_rate_limiter": {"ops": BUCKET}},
                                                   {"tx_rate_limiter": {"bandwidth": BUCKET}}],
    ("put", "/serial"): [{"serial_out_path": "OUT"}, {}, {"rate_limiter": BUCKET},
                         {"rate_limiter": {"bandwidth": BUCKET}}],
    ("put", "/logger"): [{"level": "Info", "show_level": True}, {}],
    ("put", "/metrics"): [{"metrics_path": "OUT"}],
    ("patch", "/vm"): [{"state": "Paused"}],
    # These are refused by what is said before: the microVM is configured and does not run.
    ("put", "/snapshot/create"): [{"snapshot_path": "OUT", "mem_file_path": "DISK", "snapshot_type": "Diff"}],
    ("put", "/snapshot/fork"): [{"api_socket_path": "OUT"},
                                {"api_socket_path": "OUT", "id": None, "log_path": "OUT", "resume_vm": True,
                                 "network_overrides": [{"iface_id": "id", "host_dev_name": "lo"}],
                                 "drive_overrides": [{"drive_id": "id", "path_on_host": "/x"}]}],
    ("put", "/snapshot/load"): [{"snapshot_path": "OUT", "mem_file_path": "DISK", "resume_vm": True},
                                {"snapshot_path": "OUT", "huge_pages": "None", "clock_realtime": True,
                                 "mem_backend": {"backend_type": "File", "backend_path": "/x"},
                                 "network_overrides": [{"iface_id": "id", "host_dev_name": "lo"}],
                                 "drive_overrides": [{"drive_id": "id", "path_on_host": "/x"}]}],
}


def with_id(path):
    return re.sub(r"\{[a-z_]+\}", "id", path)


def with_files(body, files):
    return {key: files.get(value, value) if isinstance(value, str) else value for key, value in body.items()}


def test_answers_are_as_described(description, workshop):
    api = workshop.monitor(api=True).api
    files = {"DISK": str(workshop.disk("disk", 1 << 20)), "OUT": str(workshop.path("out"))}

    def ask(method, path, body=None):
        answer = api.request(method.upper(), with_id(path), body)
        assert_valid(description, method, path, answer)
        return answer

    for method, path, _, operation in described_routes(description):
        if method == "get":
            assert ask(method, path).status == 200
            assert ask(method, path, {}).status == 400
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        for body in BODIES[method, path]:
            body = with_files(body, files)
            validator(description, schema).validate(body)
            ask(method, path, body)
            with pytest.raises(jsonschema.ValidationError):
                validator(description, schema).validate({**body, "unknown": 1})
            assert ask(method, path, {**body, "unknown": 1}).status == 400
        assert ask(method, path).status == 400
        assert ask(method, path, b"no JSON").status == 400
    configuration = ask("get", "/vm/config").json
    assert set(configuration) == SECTIONS | {"drives", "network-interfaces"}
    assert len(configuration["drives"]) == 1


def mutations(description, schema, body):
    """Bodies that are wrong in one way each."""
    for name, said in schema["properties"].items():
        said = follow(description, said)
        if name in schema.get("required", []):
            yield {key: value for key, value in body.items() if key != name}
        for value in (None, "x", -1, 1.5, True, [], {}, said.get("minimum", 1) - 1,
                      said.get("maximum", 1) + 1):
            yield {**body, name: value}


def test_what_the_description_forbids_is_refused(description, workshop):
    api = workshop.monitor(api=True).api
    files = {"DISK": str(workshop.disk("disk", 1 << 20)), "OUT": str(workshop.path("out"))}
    refused = 0
    for (method, path), (body, *_) in BODIES.items():
        schema = description["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        body = with_files(body, files)
        for wrong in mutations(description, follow(description, schema), body):
            # A log level is taken in any letter case, but these are no levels at all.
            if validator(description, schema).is_valid(wrong):
                continue
            answer = api.request(method.upper(), with_id(path), wrong)
            assert answer.status == 400, (path, wrong)
            assert answer.fault
            refused += 1
    assert refused > 100
