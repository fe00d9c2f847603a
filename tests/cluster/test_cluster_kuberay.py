"""docs/kuberay.yaml against KubeRay's own schema, and that it opens nothing."""

import os
import re
from copy import deepcopy
from pathlib import Path

import jsonschema
import pytest
import yaml
from open_ports import CLUSTER, KUBERAY, unsafe_text

GUIDE = KUBERAY.with_name("cluster.md")

# KubeRay's ray.io_rayclusters.yaml (ray-operator/config/crd/bases in its repository), nearly a megabyte.
CRD = "METGAN_KUBERAY_CRD"


@pytest.fixture
def manifest():
    return yaml.safe_load(KUBERAY.read_text())


@pytest.fixture(scope="module")
def schema():
    if not os.environ.get(CRD):
        pytest.skip(f"{CRD} names no copy of KubeRay's ray.io_rayclusters.yaml")
    definition = yaml.load(Path(os.environ[CRD]).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (served,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    return strict(served["schema"]["openAPIV3Schema"])


def strict(part):
    """Kubernetes drops what its schema does not know without a word; here an unknown field is a mistake."""
    part = deepcopy(part)
    if "properties" in part:
        part["properties"] = {name: strict(inner) for name, inner in part["properties"].items()}
        if not part.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in part:
            part["additionalProperties"] = False
    if isinstance(part.get("items"), dict):
        part["items"] = strict(part["items"])
    if part.get("x-kubernetes-int-or-string"):
        part.pop("anyOf", None)
        part["type"] = ["integer", "string"]
    return part


def check(manifest, schema):
    schema = deepcopy(schema)
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which the definition leaves out
    jsonschema.Draft7Validator(schema).validate(manifest)


def test_the_manifest_fits_the_definition(manifest, schema):
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    check(manifest, schema)


def test_a_misspelt_field_does_not(manifest, schema):
    manifest["spec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        check(manifest, schema)


def test_it_asks_for_a_token_and_opens_nothing(manifest):
    assert manifest["spec"]["authOptions"] == {"mode": "token"}
    assert manifest["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in manifest["spec"]["headGroupSpec"]
    assert unsafe_text(KUBERAY.read_text()) == []
    pods = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
    for pod in (part["template"]["spec"] for part in pods):
        assert "hostNetwork" not in pod
        assert all("hostPort" not in port for c in pod["containers"] for port in c.get("ports", []))


def test_it_is_the_cluster_of_cluster_yaml(manifest):
    ours = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    groups = manifest["spec"]["workerGroupSpecs"]
    assert {"head", *(group["groupName"].partition("-")[0] for group in groups)} == set(ours)
    for group in groups:
        same = ours[group["groupName"].partition("-")[0]]
        assert (group["minReplicas"], group["maxReplicas"]) == (same["min_workers"], same["max_workers"])
    head = manifest["spec"]["headGroupSpec"]["resources"]
    assert {name: int(amount) for name, amount in head.items()} == {
        name: amount for name, amount in ours["head"]["resources"].items() if name != "GPU"
    }


def test_spot_is_asked_first_and_given_up_while_a_job_still_waits(manifest):
    groups = {group["groupName"]: group for group in manifest["spec"]["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu-on-demand"]["priority"]
    given = {entry["name"]: entry["value"] for entry in manifest["spec"]["autoscalerOptions"]["env"]}
    patience = int(given["RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"])
    assert patience < int(re.search(r"--scaling.wait (\d+)", GUIDE.read_text())[1])
