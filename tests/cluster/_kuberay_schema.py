"""What the manifests of Kubernetes may say: the fields of KubeRay's own CRDs, cut down to what the manifests use.

Of each object that a manifest uses, the schema keeps the fields that it uses, and all others that are plain values or lists and
maps of them, so that a further such field needs nothing here. Descriptions are dropped, the template of a pod stands once, and
what is no field is refused. Where a manifest begins to use another object, the schema is derived again, from the three files of
https://github.com/ray-project/kuberay/tree/v1.7.0/ray-operator/config/crd/bases:

    python tests/cluster/_kuberay_schema.py FOLDER/ray.io_{rayclusters,rayjobs,rayservices}.yaml

Secret and PodDisruptionBudget are Kubernetes' own (``core/v1``, ``policy/v1``), PodMonitor is the Prometheus operator's. They
are small, and written down here.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

MANIFESTS = Path(__file__).parent.parent.parent / "cluster" / "kuberay"
_DERIVED = Path(__file__).parent / "kuberay_1.7.0.yaml"

Node = dict[str, Any]

_PLAIN = {"string", "integer", "number", "boolean"}
_KEPT = ("type", "enum", "pattern", "anyOf", "required", "minimum", "maximum")
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_POD = {"$ref": "#/Pod"}
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": _STRINGS, "annotations": _STRINGS},
    "additionalProperties": False,
}


def manifests() -> Iterator[tuple[Path, Node]]:
    """Every manifest, by its file."""
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        yield path, yaml.safe_load(path.read_text())


def complaints(manifest: Node) -> list[str]:
    """What a manifest says that is no field, or of another type, each with the place; empty where all is well."""
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    schema = yaml.safe_load(_DERIVED.read_text()) | _others()
    if kind not in schema:
        return [f"a manifest must be of a kind that is known here, {', '.join(schema)}, got {kind}"]
    errors = jsonschema.Draft202012Validator({**schema, "$ref": f"#/{kind.replace('/', '~1')}"}).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in errors]


def _others() -> Node:
    selector = _object({"matchLabels": _STRINGS})
    amount = {"type": ["integer", "string"]}
    budget = {
        "minAvailable": amount,
        "maxUnavailable": amount,
        "selector": selector,
        "unhealthyPodEvictionPolicy": {"enum": ["IfHealthyBudget", "AlwaysAllow"]},
    }
    secret = {"type": {"type": "string"}, "data": _STRINGS, "stringData": _STRINGS, "immutable": {"type": "boolean"}}
    names = {"type": "array", "items": {"type": "string"}}
    relabeling = _object({"sourceLabels": names, "targetLabel": {"type": "string"}})
    endpoint = _object({"port": {"type": "string"}, "relabelings": {"type": "array", "items": relabeling}})
    monitor = {"selector": selector, "podMetricsEndpoints": {"type": "array", "items": endpoint}}
    return {
        "v1 Secret": _top(secret),
        "policy/v1 PodDisruptionBudget": _top({"spec": _object(budget)}, "spec"),
        "monitoring.coreos.com/v1 PodMonitor": _top({"spec": _object(monitor)}, "spec"),
    }


def _object(fields: Node) -> Node:
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _top(fields: Node, *required: str) -> Node:
    return _object({"apiVersion": {}, "kind": {}, "metadata": _METADATA, **fields}) | {"required": ["metadata", *required]}


def _derived(crds: list[Node], used: list[Node]) -> Node:
    """Schema of each kind by its name, and of a pod.

    Raises:
        ValueError: a manifest uses a field that the CRD lacks.
    """
    schema: Node = {}
    for crd in crds:
        kind = crd["spec"]["names"]["kind"]
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        specs = [manifest["spec"] for manifest in used if manifest["kind"] == kind]
        schema[f"ray.io/v1 {kind}"] = _top({"spec": _cut(spec, specs, kind)}, "spec")
        if kind == "RayCluster":
            clusters = specs + [manifest["spec"]["rayClusterConfig"] for manifest in used if manifest["kind"] == "RayService"]
            groups = [group for one in clusters for group in (one["headGroupSpec"], *one["workerGroupSpecs"])]
            template = spec["properties"]["headGroupSpec"]["properties"]["template"]
            schema["Pod"] = _cut(template, [group["template"] for group in groups], "Pod")
    return schema


def _cut(node: Mapping[str, Any], used: list[Any], where: str) -> Node:
    """A schema without what no value in ``used`` needs."""
    kept = {key: node[key] for key in _KEPT if key in node}
    if "items" in node:
        kept["items"] = _cut(node["items"], [item for value in used for item in value], f"{where}[]")
    if "properties" in node:
        fields = node["properties"]
        in_use = {name for value in used for name in value}
        if unknown := in_use - set(fields):
            raise ValueError(f"{where} must hold fields of the CRD, {', '.join(fields)}, got {', '.join(unknown)}")
        names = [name for name in fields if name in in_use or _is_plain(fields[name])]
        below = {name: [value[name] for value in used if name in value] for name in names}
        kept["properties"] = {
            name: _POD if name == "template" else _cut(fields[name], below[name], f"{where}.{name}") for name in names
        }
        kept["additionalProperties"] = False
    elif "additionalProperties" in node:
        kept["additionalProperties"] = _cut(node["additionalProperties"], [], f"{where}.*")
    return kept


def _is_plain(node: Mapping[str, Any]) -> bool:
    below = node.get("items") or node.get("additionalProperties")
    return "anyOf" in node or node.get("type") in _PLAIN or (isinstance(below, dict) and below.get("type") in _PLAIN)


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Write the schema."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crds = [yaml.load(Path(word).read_text(), loader) for word in sys.argv[1:]]
    schema = _derived(crds, [manifest for _, manifest in manifests()])
    text = yaml.dump(schema, Dumper=_WithoutAnchors, sort_keys=False, default_flow_style=None, width=1000, indent=1)
    _DERIVED.write_text(f"# Derived from the CRDs of KubeRay 1.7.0 by _kuberay_schema.py, which says how.\n{text}")


if __name__ == "__main__":
    main()
