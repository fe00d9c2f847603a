"""What would make a cluster unsafe, read from the files that start it."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER, STACK, KUBERAY = ROOT / "cluster.yaml", ROOT / "docs" / "cluster-aws.yaml", ROOT / "docs" / "kuberay.yaml"

NARROWEST = 24  # bits: a network of 256 addresses is somebody's, a wider one is the world
SECRETS = (
    r"AKIA[0-9A-Z]{16}",
    r"\b[0-9a-f]{32,}\b",
    r"(?i)(password|secret|token)[a-z_]*['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+]{8,}",
)


class _StackLoader(yaml.SafeLoader):
    """CloudFormation's short forms (!Ref, !GetAtt, !Sub) as plain {form: argument}."""


def _short_form(loader, form, node):
    kind = loader.construct_scalar if isinstance(node, yaml.ScalarNode) else loader.construct_sequence
    return {form: kind(node)}


_StackLoader.add_multi_constructor("!", _short_form)


def read_stack(text):
    """The tree of a CloudFormation template."""
    return yaml.load(text, _StackLoader)


def unsafe_in_stack(stack):
    """Complaints about the security group's rules: SSH from one given address, and the group's own machines."""
    found, pattern = [], stack["Parameters"]["Address"].get("AllowedPattern", "")
    if "Default" in stack["Parameters"]["Address"] or not pattern or re.fullmatch(pattern, "0.0.0.0/0"):
        found.append("Address: has a default, or may be the whole internet")
    for name, part in stack["Resources"].items():
        rules = part.get("Properties", {})
        if part["Type"] == "AWS::EC2::SecurityGroup":
            found += [f"{name}: {why}" for rule in rules.get("SecurityGroupIngress", []) for why in _open(rule)]
        elif part["Type"] == "AWS::EC2::SecurityGroupIngress":
            found += [f"{name}: {why}" for why in _open(rules)]
        elif part["Type"] == "AWS::EC2::LaunchTemplate" and not rules["LaunchTemplateData"].get("SecurityGroupIds"):
            found.append(f"{name}: no security group: Ray would open SSH to the world")
    return found


def _open(rule):
    if rule.get("SourceSecurityGroupId") == rule.get("GroupId") is not None:
        return
    if (rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort")) != ("tcp", 22, 22):
        yield f"opens ports {rule.get('FromPort')} to {rule.get('ToPort')}"
    source = rule.get("CidrIp", "::/0")
    if source != {"Ref": "Address"} and not _is_narrow(source):
        yield f"opens to {source}"


def _is_narrow(source):
    return isinstance(source, str) and "." in source and int(source.partition("/")[2] or 0) >= NARROWEST


def unsafe_in_cluster(text):
    """Complaints about a file for `ray up` on AWS."""
    cluster, found = yaml.safe_load(text), []
    for rule in cluster["provider"].get("security_group", {}).get("IpPermissions", []):
        ranges = [r.get("CidrIp") or r.get("CidrIpv6") for key in ("IpRanges", "Ipv6Ranges") for r in rule.get(key, [])]
        found += [f"security_group: {why}" for source in ranges for why in _open({**rule, "CidrIp": source})]
    for name, node in cluster["available_node_types"].items():
        # Without a group of ours Ray makes one, which lets SSH in from everywhere.
        if not {"LaunchTemplate", "SecurityGroupIds"} & set(node["node_config"]):
            found.append(f"{name}: no security group: Ray would open SSH to the world")
    commands = [c for kind in ("head", "worker") for c in cluster[f"{kind}_start_ray_commands"] if "ray start" in c]
    for command in commands:
        if "RAY_AUTH_MODE=token" not in command.partition("ray start")[0]:
            found.append("a node starts without token authentication")
        if "--head" in command and "--dashboard-host=127.0.0.1" not in command:
            found.append("the dashboard does not listen on loopback alone")
    return found + unsafe_text(text)


def unsafe_text(text):
    """Complaints about what looks like a secret."""
    return [f"looks like a secret: {m.group()}" for pattern in SECRETS for m in re.finditer(pattern, text)]
