"""cluster.yaml: what Ray makes of it, what it asks of EC2, and that it opens nothing to the world."""

import json
import re
import subprocess
import tomllib
from copy import deepcopy
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ssm.models import ssm_backends
from open_ports import CLUSTER, ROOT, STACK, read_stack, unsafe_in_cluster, unsafe_in_stack
from ray.autoscaler._private import cli_logger, commands
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

REGION, HOME_ADDRESS = "us-east-1", "203.0.113.7/32"
WORKERS = {"gpu-spot": 1, "gpu-on-demand": 1, "cpu-spot": 1}


@pytest.fixture
def text():
    return CLUSTER.read_text()


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """An empty AWS account, as far as moto has one, and a home folder of our own for Ray's SSH key."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with mock_aws():
        yield boto3.client("ec2", region_name=REGION)
    for cache in (client_cache, resource_cache):
        cache.cache_clear()


def make_stack(ec2, address=HOME_ADDRESS):
    """The walk-through's `aws cloudformation deploy`."""
    stack = read_stack(STACK.read_text())
    image = ec2.describe_images()["Images"][0]["ImageId"]
    # AWS's own parameters are not in moto, and cannot be put there through the API.
    boto3.client("ssm", region_name=REGION).put_parameter(Name="/image", Value=image, Type="String")
    parameters = ssm_backends[DEFAULT_ACCOUNT_ID][REGION]._parameters
    parameters[stack["Parameters"]["Image"]["Default"]] = parameters["/image"]
    boto3.client("cloudformation", region_name=REGION).create_stack(
        StackName="metgan-cluster",
        TemplateBody=STACK.read_text(),
        Parameters=[
            {"ParameterKey": "Address", "ParameterValue": address},
            {"ParameterKey": "Bucket", "ParameterValue": "lab"},
        ],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    return image


class Recorder:
    """Stands for `subprocess`: notes what would go over SSH, and succeeds."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self):
        self.calls = []

    def check_call(self, command, **_):
        self.calls.append(" ".join(command) if isinstance(command, list) else command)

    def check_output(self, command, **_):
        self.check_call(command)
        return b""


def bring_up(text):
    """`ray up` and then the autoscaler's launches, in this process; returns what was sent over SSH to the head."""
    cli_logger.cli_logger.configure(log_style="record", verbosity=-1)
    resolved = commands._bootstrap_config(yaml.safe_load(text), no_config_cache=True)
    over_ssh = Recorder()
    provider = AWSNodeProvider(resolved["provider"], resolved["cluster_name"])
    commands.get_or_create_head_node(
        deepcopy(resolved), str(CLUSTER), False, False, True, None, _provider=provider, _runner=over_ssh
    )

    class Reader:
        def get_cached_autoscaling_config(self):
            return AutoscalingConfig(resolved)

    launcher = NodeProviderAdapter(provider, Reader())
    launcher.launch(WORKERS, "first")
    launcher._main_executor.shutdown()
    launcher._node_launcher_executors.shutdown()
    assert launcher.poll_errors() == []
    return over_ssh.calls


def instances(ec2):
    """{node type: its instances}."""
    found = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            found.setdefault(tags["ray-user-node-type"], []).append({**instance, "tags": tags})
    return found


def test_ray_accepts_the_file(text):
    raw = yaml.safe_load(text)
    prepared = prepare_config(raw)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert set(types) == {"head", *WORKERS}
    assert types["head"]["max_workers"] == 0
    assert prepared["idle_timeout_minutes"] == raw["idle_timeout_minutes"] > 0
    assert types["gpu-spot"]["priority"] > types["gpu-on-demand"]["priority"]


def test_ray_refuses_the_file_with_a_field_that_it_does_not_know(text):
    wrong = yaml.safe_load(text) | {"idle_timeout": 10}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(wrong))


def test_the_versions_that_the_nodes_install_are_the_packages_own(text, tmp_path):
    cluster = yaml.safe_load(text)
    mounted = {Path(remote).name: ROOT / local for remote, local in cluster["file_mounts"].items()}
    assert all(local.is_file() for local in mounted.values())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes(mounted[name].read_bytes())
    setup = next(command for command in cluster["setup_commands"] if "tomllib" in command)
    written = re.search(r"-c '(.*?)'", setup, re.DOTALL)[1]
    listed = subprocess.run(["python3", "-c", written], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert listed.split() == tomllib.loads(mounted["pyproject.toml"].read_text())["project"]["dependencies"]
    assert "-c constraints.txt -r requirements.txt" in setup


def test_ec2_is_asked_for_what_the_file_says(aws, text):
    image = make_stack(aws)
    over_ssh = bring_up(text)
    nodes = instances(aws)
    assert {name: len(found) for name, found in nodes.items()} == {"head": 1, **WORKERS}
    described = {name: found[0]["InstanceType"] for name, found in nodes.items()}
    assert described == {
        name: node["node_config"]["InstanceType"] for name, node in yaml.safe_load(text)["available_node_types"].items()
    }
    lifecycles = {name: {i.get("InstanceLifecycle") for i in found} for name, found in nodes.items()}
    assert lifecycles == {"head": {None}, "gpu-on-demand": {None}, "gpu-spot": {"spot"}, "cpu-spot": {"spot"}}
    for name, found in nodes.items():
        for node in found:
            assert node["ImageId"] == image
            assert node["tags"]["ray-cluster-name"] == "metgan"
            assert node["tags"]["ray-node-type"] == ("head" if name == "head" else "worker")
            assert [group["GroupName"] for group in node["SecurityGroups"]] == ["metgan-cluster"]
            role = "metgan-cluster-head" if name == "head" else "metgan-cluster-worker"
            assert node["IamInstanceProfile"]["Arn"].endswith(f"instance-profile/{role}")
            assert node["MetadataOptions"]["HttpTokens"] == "required"
    volumes = aws.describe_volumes()["Volumes"]
    assert len(volumes) == sum(WORKERS.values()) + 1
    assert all(volume["Encrypted"] and volume["Size"] == 200 for volume in volumes)
    sent = "\n".join(over_ssh)
    assert sent.index("ray get-auth-token --generate") < sent.index("ray start --head")
    assert "--dashboard-host=127.0.0.1" in sent
    # The only way in is SSH from the given address.
    (used,) = {g["GroupId"] for found in nodes.values() for node in found for g in node["SecurityGroups"]}
    (group,) = aws.describe_security_groups(GroupIds=[used])["SecurityGroups"]
    outside, inside = sorted(group["IpPermissions"], key=lambda rule: rule["IpProtocol"], reverse=True)
    assert (outside["IpProtocol"], outside["FromPort"], outside["ToPort"]) == ("tcp", 22, 22)
    assert [source["CidrIp"] for source in outside["IpRanges"]] == [HOME_ADDRESS]
    assert outside["Ipv6Ranges"] == outside["UserIdGroupPairs"] == []
    assert inside["IpRanges"] == inside["Ipv6Ranges"] == []
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [used]


def test_without_the_stack_nothing_is_started_and_nothing_opened(aws, text):
    before = aws.describe_security_groups()["SecurityGroups"]
    with pytest.raises(Exception, match="metgan-cluster"):
        bring_up(text)
    assert instances(aws) == {}
    assert aws.describe_security_groups()["SecurityGroups"] == before


def test_the_roles_reach_one_bucket_and_only_the_head_starts_machines(aws):
    make_stack(aws)
    iam = boto3.client("iam", region_name=REGION)
    storage = iam.get_policy(PolicyArn=f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:policy/metgan-cluster-storage")["Policy"]
    allowed = iam.get_policy_version(PolicyArn=storage["Arn"], VersionId=storage["DefaultVersionId"])
    resources = {s["Resource"] for s in allowed["PolicyVersion"]["Document"]["Statement"]}
    assert resources == {"arn:aws:s3:::lab", "arn:aws:s3:::lab/*"}
    for role, own in (("metgan-cluster-worker", []), ("metgan-cluster-head", ["workers"])):
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        assert [policy["PolicyName"] for policy in attached] == ["metgan-cluster-storage"]
        assert iam.list_role_policies(RoleName=role)["PolicyNames"] == own
    starts = iam.get_role_policy(RoleName="metgan-cluster-head", PolicyName="workers")["PolicyDocument"]
    assert "*:*" not in json.dumps(starts)


def test_the_files_open_nothing_and_hold_no_secret(text):
    assert unsafe_in_cluster(text) == []
    assert unsafe_in_stack(read_stack(STACK.read_text())) == []


RULE = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["provider"].update(security_group={"IpPermissions": [RULE]}), "opens to 0.0.0.0/0"),
        (
            lambda c: c["provider"].update(
                security_group={"IpPermissions": [{**RULE, "FromPort": 8265, "ToPort": 8265}]}
            ),
            "opens ports 8265",
        ),
        (lambda c: c["available_node_types"]["cpu-spot"]["node_config"].pop("LaunchTemplate"), "SSH to the world"),
        (lambda c: c["head_start_ray_commands"].append("ray start --head --dashboard-host=0.0.0.0"), "loopback"),
        (lambda c: c["worker_start_ray_commands"].append("ray start --address=x:6379"), "without token"),
        (lambda c: c["setup_commands"].append("export AWS_SECRET_ACCESS_KEY=abcdefgh12345678"), "secret"),
        (lambda c: c["setup_commands"].append("echo 0123456789abcdef0123456789abcdef > t"), "secret"),
    ],
)
def test_a_cluster_file_that_opens_something_is_refused(text, change, complaint):
    cluster = yaml.safe_load(text)
    change(cluster)
    assert complaint in "\n".join(unsafe_in_cluster(yaml.safe_dump(cluster)))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("CidrIp: !Ref Address", "CidrIp: 0.0.0.0/0", "opens to 0.0.0.0/0"),
        ("CidrIp: !Ref Address", "CidrIp: 10.0.0.0/8", "opens to 10.0.0.0/8"),
        ("CidrIp: !Ref Address", 'CidrIpv6: "::/0"', "opens to ::/0"),
        ("FromPort: 22, ToPort: 22", "FromPort: 22, ToPort: 8265", "opens ports 22 to 8265"),
        ("/(2[4-9]|3[0-2])$", "/[0-9]+$", "whole internet"),
        ("SourceSecurityGroupId: !GetAtt Group.GroupId", "CidrIp: 0.0.0.0/0", "opens to 0.0.0.0/0"),
    ],
)
def test_a_stack_that_opens_something_is_refused(old, new, complaint):
    text = STACK.read_text()
    assert old in text
    assert complaint in "\n".join(unsafe_in_stack(read_stack(text.replace(old, new))))
