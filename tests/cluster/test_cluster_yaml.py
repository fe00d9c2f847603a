"""cluster.yaml: what Ray makes of it, what it asks of EC2, and that it opens nothing to the world."""

import json
import os
import re
import subprocess
import sys
import tomllib
from copy import deepcopy
from functools import cache
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ssm.models import ssm_backends
from open_ports import CLUSTER, ROOT, STACK, read_stack, unsafe_in_cluster, unsafe_in_stack
from ray.autoscaler._private import cli_logger, commands
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

REGION, HOME_ADDRESS = "us-east-1", "203.0.113.7/32"
WORKERS = {"gpu": 1, "cpu": 1}


@pytest.fixture
def text():
    return CLUSTER.read_text()


@pytest.fixture(scope="module")
def session():
    """boto3's session, which has read EC2's long description once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        patch.setattr(boto3, "DEFAULT_SESSION", boto3.Session(**keys, region_name=REGION))
        # So has Ray, of every type of instance that there is.
        patch.setattr(node_provider, "list_ec2_instances", cache(node_provider.list_ec2_instances))
        yield


@pytest.fixture
def aws(session, monkeypatch, tmp_path):
    """An empty AWS account, as far as moto has one, and a home folder of our own for Ray's SSH key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with mock_aws(config={"core": {"reset_boto3_session": False}}):
        yield boto3.client("ec2", region_name=REGION)
    for known in (client_cache, resource_cache):
        known.cache_clear()


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
    """`ray up`, then the autoscaler's launches, in this process; what went over SSH to the head, and EC2's refusals."""
    cli_logger.cli_logger.configure(log_style="record", verbosity=-1)
    resolved = commands._bootstrap_config(yaml.safe_load(text), no_config_cache=True)
    over_ssh = Recorder()
    provider = _get_node_provider(resolved["provider"], resolved["cluster_name"], use_cache=False)
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
    return over_ssh.calls, launcher.poll_errors()


def instances(ec2):
    """{node type: its instances}."""
    found = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            found.setdefault(tags["ray-user-node-type"], []).append({**instance, "tags": tags})
    return found


def lifecycles(nodes):
    """{node type: how its instances were bought}; None is on demand."""
    return {name: {instance.get("InstanceLifecycle") for instance in found} for name, found in nodes.items()}


def test_ray_accepts_the_file(text):
    raw = yaml.safe_load(text)
    prepared = prepare_config(raw)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert set(types) == {"head", *WORKERS}
    assert types["head"]["max_workers"] == 0
    assert prepared["idle_timeout_minutes"] == raw["idle_timeout_minutes"] > 0
    assert types["head"]["resources"]["CPU"] == types["head"]["resources"]["GPU"] == 0
    assert {name: types[name]["min_workers"] for name in WORKERS} == dict.fromkeys(WORKERS, 0)


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


def test_machines_with_eight_gpus_as_the_page_has_them_are_a_node_type_and_eight_gpus(aws, text):
    """Which moto cannot launch: it knows no placement groups."""
    node = re.search(r"```yaml\n(  gpu8:.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)[1]
    prepared = prepare_config(yaml.safe_load(text.replace("\n  # Cuts tiles", f"\n{node}\n  # Cuts tiles")))
    validate_config(prepared)
    asked = prepared["available_node_types"]["gpu8"]["node_config"]
    assert asked["Placement"] == {"GroupName": "metgan"}
    counts = {"MinCount": 1, "MaxCount": 8}
    shape = aws.meta.service_model.operation_model("RunInstances").input_shape
    assert ParamValidator().validate({**asked, **counts}, shape).generate_report() == ""
    assert ParamValidator().validate({**asked, **counts, "Plaecment": {}}, shape).has_errors()
    (described,) = aws.describe_instance_types(InstanceTypes=[asked["InstanceType"]])["InstanceTypes"]
    assert sum(gpu["Count"] for gpu in described["GpuInfo"]["Gpus"]) == 8
    assert described["VCpuInfo"]["DefaultVCpus"] == 192


def test_ec2_is_asked_for_what_the_file_says(aws, text):
    image = make_stack(aws)
    over_ssh, refused = bring_up(text)
    assert refused == []
    nodes = instances(aws)
    assert {name: len(found) for name, found in nodes.items()} == {"head": 1, **WORKERS}
    described = {name: found[0]["InstanceType"] for name, found in nodes.items()}
    assert described == {
        name: node["node_config"]["InstanceType"] for name, node in yaml.safe_load(text)["available_node_types"].items()
    }
    assert lifecycles(nodes) == {"head": {None}, "gpu": {"spot"}, "cpu": {"spot"}}
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


@pytest.fixture
def without_spot(monkeypatch):
    """Has EC2 refuse spot machines, with the given code."""

    def refuse(code):
        usual = EC2Backend.run_instances

        def run_instances(self, *args, **kwargs):
            if kwargs.get("instance_market_options"):
                raise EC2ClientError(code, "no")
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(EC2Backend, "run_instances", run_instances)

    return refuse


def test_machines_are_started_on_demand_where_the_spot_market_has_none(aws, text, without_spot):
    make_stack(aws)
    without_spot("InsufficientInstanceCapacity")
    assert bring_up(text)[1] == []
    nodes = instances(aws)
    assert {name: len(found) for name, found in nodes.items()} == {"head": 1, **WORKERS}
    assert lifecycles(nodes) == {"head": {None}, "gpu": {None}, "cpu": {None}}


def test_another_refusal_is_no_reason_to_pay_more(aws, text, without_spot):
    make_stack(aws)
    without_spot("UnauthorizedOperation")
    assert {refusal.node_type for refusal in bring_up(text)[1]} == set(WORKERS)
    assert set(instances(aws)) == {"head"}


def test_the_head_can_load_what_starts_the_machines(text, tmp_path):
    """Of the package, the head has this one file until a job brings the rest."""
    cluster = yaml.safe_load(text)
    for remote, local in cluster["file_mounts"].items():
        place = tmp_path / Path(remote).relative_to("~")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / local).read_bytes())
    start = next(command for command in cluster["head_start_ray_commands"] if "ray start" in command)
    given = re.search(r"PYTHONPATH=\$HOME(\S+)", start)[1]
    module, _, name = cluster["provider"]["module"].rpartition(".")
    code = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]; import {module} as m; "
    code += f"print(m.__file__, m.{name}.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}{given}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [f"{tmp_path}{given}/{module.replace('.', '/')}.py", name]


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
        (lambda c: c["available_node_types"]["cpu"]["node_config"].pop("LaunchTemplate"), "SSH to the world"),
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
        ("SecurityGroupIds: [!GetAtt Group.GroupId]", "EbsOptimized: true", "SSH to the world"),
    ],
)
def test_a_stack_that_opens_something_is_refused(old, new, complaint):
    text = STACK.read_text()
    assert old in text
    assert complaint in "\n".join(unsafe_in_stack(read_stack(text.replace(old, new))))
