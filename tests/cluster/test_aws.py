"""The cluster on AWS, as far as an imitation of it (moto) goes: the stack, and what ``ray up`` would ask for."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

REGION, BUCKET = "us-west-2", "a-bucket"
TEMPLATE = Path("cluster/aws.yaml").read_text()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An account with the stack in it: its parameters."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key pair that it makes below it
    (tmp_path / ".ssh").mkdir()
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", REGION)):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        ec2 = boto3.client("ec2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        tables = [table["RouteTableId"] for table in ec2.describe_route_tables()["RouteTables"]]
        yield {"Vpc": vpc, "RouteTables": ",".join(tables), "SshFrom": "198.51.100.7/32", "Bucket": BUCKET}


def as_dict(document: str | dict[str, Any]) -> dict[str, Any]:
    """A policy, which the client decodes or does not."""
    return yaml.safe_load(document) if isinstance(document, str) else document  # moto prints a dict


def deploy(parameters: dict[str, str]) -> None:
    boto3.client("cloudformation").create_stack(
        StackName="rdd",
        TemplateBody=TEMPLATE,
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def bootstrapped() -> dict[str, Any]:
    """The cluster's file as ``ray up`` completes it before it starts the head."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(Path("ray_cluster.yaml").read_text()))
    validate_config(config)
    return bootstrap_aws(copy.deepcopy(config))


def test_nodes_are_in_a_group_that_the_world_can_not_reach(account: dict[str, str]) -> None:
    deploy(account)
    config = bootstrapped()
    groups = {group for node in config["available_node_types"].values() for group in node["node_config"]["SecurityGroupIds"]}
    assert len(groups) == 1
    group = boto3.client("ec2").describe_security_groups(GroupIds=list(groups))["SecurityGroups"][0]
    assert group["GroupName"] == "rdd"
    ranges = [
        (rule["IpProtocol"], rule.get("FromPort"), sources["CidrIp"])
        for rule in group["IpPermissions"]
        for sources in rule["IpRanges"]
    ]
    assert ranges == [("tcp", 22, account["SshFrom"])]
    among = [(rule["IpProtocol"], [pair["GroupId"] for pair in rule["UserIdGroupPairs"]]) for rule in group["IpPermissions"]]
    assert ("-1", [group["GroupId"]]) in among


def test_the_stack_refuses_to_open_ssh_to_the_world() -> None:
    pattern = re.search(r"AllowedPattern: (.*)", TEMPLATE)
    assert pattern is not None
    assert not re.fullmatch(pattern[1], "0.0.0.0/0")
    assert re.fullmatch(pattern[1], "203.0.113.7/32")


def test_nodes_have_profiles_and_no_keys_and_reach_several_zones(account: dict[str, str]) -> None:
    deploy(account)
    config = bootstrapped()
    subnets = boto3.client("ec2").describe_subnets()["Subnets"]
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in subnets}
    profiles = {profile["InstanceProfileName"] for profile in boto3.client("iam").list_instance_profiles()["InstanceProfiles"]}
    for name, node in config["available_node_types"].items():
        asked = node["node_config"]
        assert asked["IamInstanceProfile"]["Name"] in profiles, name
        assert asked["MetadataOptions"]["HttpTokens"] == "required"
        assert len({zones[subnet] for subnet in asked["SubnetIds"]}) >= 3
        assert node["min_workers"] == 0
    spot = {name for name, node in config["available_node_types"].items() if "InstanceMarketOptions" in node["node_config"]}
    assert spot == {"cpu_worker", "cpu_worker_amd", "gpu_worker", "gpu_worker_8"}
    assert not re.search(r"AKIA|aws_secret|auth_token: [^~]", json.dumps(config))


def test_the_head_may_start_workers_and_no_more_than_them(account: dict[str, str]) -> None:
    deploy(account)
    iam = boto3.client("iam")
    policy = as_dict(iam.get_role_policy(RoleName="rdd-head", PolicyName="workers")["PolicyDocument"])
    passed = [statement["Resource"] for statement in policy["Statement"] if statement["Action"] == "iam:PassRole"]
    assert passed == [iam.get_role(RoleName="rdd-worker")["Role"]["Arn"]]
    assert iam.list_role_policies(RoleName="rdd-worker")["PolicyNames"] == []
    (bucket,) = iam.list_policies(Scope="Local")["Policies"]  # the imitation does not attach it
    version = iam.get_policy_version(PolicyArn=bucket["Arn"], VersionId="v1")["PolicyVersion"]
    resources = [statement["Resource"] for statement in as_dict(version["Document"])["Statement"]]
    assert resources == [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]


def test_the_stack_passes_awss_own_rules() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), "cluster/aws.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_node_of_each_type_can_be_asked_for(account: dict[str, str]) -> None:
    """The request goes through EC2's own parameter check; the image is looked up by AWS, which the imitation can not."""
    deploy(account)
    ec2 = boto3.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    for name, node in bootstrapped()["available_node_types"].items():
        asked = {key: value for key, value in node["node_config"].items() if key != "SubnetIds"}
        assert asked.pop("ImageId").startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
        made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=node["node_config"]["SubnetIds"][0], **asked)
        assert made["Instances"][0]["InstanceType"] == node["node_config"]["InstanceType"], name
