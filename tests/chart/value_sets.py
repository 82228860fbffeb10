"""Sets of values that the chart is rendered, linted and judged with. `ALL` names each after what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

EXTERNAL: Final = {"database": {"existingSecret": "database"}}
DEVELOPMENT: Final = {"postgresql": {"enabled": True}}
KEY: Final = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
DIGEST: Final = "sha256:" + "0f" * 32

PLACEMENT: Final[Mapping[str, Any]] = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "apis", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
}
EXTRAS: Final[Mapping[str, Any]] = {
    "podLabels": {"team": "platform"},
    "podAnnotations": {"example.com/owner": "platform"},
    "extraEnv": [
        {"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"},
        {"name": "LICENSE", "valueFrom": {"secretKeyRef": {"name": "license", "key": "key"}}},
    ],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/authorities", "readOnly": True}],
    "serviceAccount": {"annotations": {"example.com/role": "reader"}},
}
MONITORED: Final[Mapping[str, Any]] = {
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}, "alertLabels": {"team": "platform"}},
        "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Platform"}},
    }
}
SELECTED_PODS: Final = {"podSelector": {"matchLabels": {"app": "gateway"}}}
INGRESS: Final = {
    "enabled": True,
    "className": "nginx",
    "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": "3600"},
    "hosts": ["api.example.com", "api.example.org"],
    "tls": [{"secretName": "certificate", "hosts": ["api.example.com", "api.example.org"]}],
}
GATEWAY: Final = {
    "enabled": True,
    "annotations": {"example.com/owner": "platform"},
    "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
    "hostnames": ["api.example.com"],
    "paths": ["/api"],
}

ALL: Final[Mapping[str, Mapping[str, Any]]] = {
    "external": EXTERNAL,
    "development": DEVELOPMENT,
    "development_without_volume": {"postgresql": {"enabled": True, "persistence": {"enabled": False}}},
    "development_with_storage": {
        "postgresql": {
            "enabled": True,
            "image": {"repository": "registry.example.com/postgres", "tag": "18", "digest": DIGEST},
            "security": {"runAsUser": None, "runAsGroup": None},
            "persistence": {"size": "20Gi", "storageClass": "fast"},
            "args": [],
            **PLACEMENT,
        }
    },
    "enforced": {**EXTERNAL, "enforce": True},
    "shadowed": {**EXTERNAL, "enforce": False},
    "secrets_of_its_own": {
        "database": {
            "existingSecret": "kernel-database",
            "ownerSecret": "owner-database",
            "keys": {"kernel": "url", "owner": "url", "direct": "direct"},
            "transactionPooler": True,
        },
        "secrets": {"existingSecret": "sealed", "keys": {"jwtSecrets": "tokens", "masterKey": "master"}},
        "trust": {"existingSecret": "publishers"},
    },
    "development_with_direct_url": {**DEVELOPMENT, "database": {"keys": {"direct": "direct-url"}}},
    "trusted": {**EXTERNAL, "trust": {"keys": [KEY, KEY.upper()]}},
    "trusting_nobody": {**EXTERNAL, "trust": {"keys": []}},
    "unsigned": {**EXTERNAL, "trust": {"allowUnsigned": True}},
    "settings": {
        **EXTERNAL,
        "settings": {
            "METACORE_POOL_SIZE": 20,
            "METACORE_MAX_UPLOAD_BYTES": 134_217_728,
            "METACORE_HEARTBEAT_INTERVAL": 1.5,
            "METACORE_REGISTRATION": False,
            "METACORE_LOG_LEVEL": "debug",
        },
        "operator": {"settings": {"METACORE_OPERATOR_WORKERS": 4, "METACORE_LOG_LEVEL": "debug"}},
    },
    "autoscaled": {
        **EXTERNAL,
        "kernel": {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 30, "targetCPUUtilization": 60}},
    },
    "alone": {
        **EXTERNAL,
        "kernel": {
            "replicas": 1,
            "podDisruptionBudget": {"enabled": False},
            "topologySpread": [],
            "drainSeconds": 0,
            "rollout": {"maxSurge": "25%", "minReadySeconds": 0, "progressDeadlineSeconds": 60},
        },
        "operator": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
    },
    "cluster_wide": {**EXTERNAL, "operator": {"watch": {"clusterWide": True, "namespaces": ["shared", "backstage"]}}},
    "several_namespaces": {
        **EXTERNAL,
        "operator": {
            "watch": {"namespaces": ["team-b", "team-a"]},
            "tenancy": [{"namespaces": ["team-*"], "organizations": ["Acme", "Globex"]}],
        },
    },
    "namespace_only": {**EXTERNAL, "crds": {"install": False}},
    "careful": {
        **EXTERNAL,
        "operator": {"modeRollout": {"canarySeconds": 600, "maxViolations": 0, "violationWindow": 86400}},
    },
    "sources": {
        **EXTERNAL,
        "operator": {
            "sources": {
                "hosts": ["registry.example.com:5000", "*.example.org"],
                "volume": {"persistentVolumeClaim": {"claimName": "addons"}},
            }
        },
    },
    "ingress": {
        **EXTERNAL,
        "ingress": INGRESS,
        "kernel": {"trustedProxies": ["10.244.0.0/16", "fd00:10:244::/56", "192.0.2.7"]},
    },
    "gateway": {**EXTERNAL, "httpRoute": GATEWAY},
    "load_balancer": {
        **EXTERNAL,
        "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/internal": "true"}},
    },
    "monitored": {**EXTERNAL, **MONITORED},
    "open_network": {**DEVELOPMENT, "networkPolicy": {"enabled": False}},
    "narrow_network": {
        **EXTERNAL,
        "networkPolicy": {
            "kernelIngressFrom": [SELECTED_PODS, {"namespaceSelector": {}}],
            "kernelInternet": False,
            "kernelExtraEgress": [{"to": [SELECTED_PODS], "ports": [{"protocol": "TCP", "port": 3128}]}],
            "operatorEgressPorts": [6443],
            "operatorExtraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
            "databasePorts": [5432, 6432],
            "databaseTo": [{"ipBlock": {"cidr": "10.9.0.0/24", "except": ["10.9.0.7/32"]}}],
        },
    },
    "image_by_digest": {
        **EXTERNAL,
        "image": {"repository": "registry.example.com:5000/metacore", "digest": DIGEST, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "ids_of_the_platform": {**DEVELOPMENT, "security": {"runAsUser": None, "runAsGroup": None}},
    "another_name": {**EXTERNAL, "fullnameOverride": "addons", "commonLabels": {"team": "platform"}},
    "everything": {
        **DEVELOPMENT,
        **MONITORED,
        "commonLabels": {"cost-center": "42"},
        "enforce": True,
        "trust": {"keys": [KEY]},
        "ingress": INGRESS,
        "httpRoute": GATEWAY,
        "kernel": {**PLACEMENT, **EXTRAS, "autoscaling": {"enabled": True}},
        "operator": {
            **PLACEMENT,
            **EXTRAS,
            "watch": {"clusterWide": True},
            "sources": {"volume": {"configMap": {"name": "addons"}}},
        },
        "migrate": {
            **PLACEMENT,
            "podLabels": EXTRAS["podLabels"],
            "podAnnotations": EXTRAS["podAnnotations"],
            "serviceAccount": EXTRAS["serviceAccount"],
        },
    },
}
