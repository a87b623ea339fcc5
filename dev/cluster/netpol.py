#!/usr/bin/env python3
"""Enforces NetworkPolicies for the pods of one node: netpol.py SERVER PKI NODE

A bridge CNI enforces none, and what others enforce them with needs kernel parts that are not everywhere (kube-network-policies:
the queue of nftables). This one needs nf_tables and br_netfilter. It follows policies, pods and namespaces, and writes the table
`inet netpol` of its network namespace anew whenever the outcome changes: one chain for each pod and direction that a policy selects,
which returns what is allowed and refuses the rest. Refused, not dropped: whoever is not let in knows it at once.

It sees addresses and ports after those of a Service were replaced, as most enforcers do. IPv4 only."""
import http.client
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

SERVER, PKI, NODE = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2], sys.argv[3]
PATHS = {
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}
TLS = ssl.create_default_context(cafile=f"{PKI}/ca.crt")
TLS.load_cert_chain(f"{PKI}/admin.crt", f"{PKI}/admin.key")

objects = {kind: {} for kind in PATHS}
listed, lock, changed = set(), threading.Lock(), threading.Event()


def key(thing):
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def labels(thing):
    return thing["metadata"].get("labels") or {}


def follow(kind):
    """Keeps `objects[kind]` as the API server has it."""
    while True:
        try:
            server = http.client.HTTPSConnection(SERVER.hostname, SERVER.port, context=TLS, timeout=330)
            server.request("GET", PATHS[kind])
            found = json.loads(server.getresponse().read())
            with lock:
                objects[kind] = {key(thing): thing for thing in found["items"]}
            listed.add(kind)
            changed.set()
            version = found["metadata"]["resourceVersion"]
            server.request("GET", f"{PATHS[kind]}?watch=1&timeoutSeconds=300&resourceVersion={version}")
            for line in server.getresponse():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                with lock:
                    if event["type"] == "DELETED":
                        objects[kind].pop(key(event["object"]), None)
                    else:
                        objects[kind][key(event["object"])] = event["object"]
                changed.set()
        except Exception as problem:  # whatever it was, the list is read again
            print(kind, problem, file=sys.stderr, flush=True)
            time.sleep(0.5)


def selects(selector, of):
    for name, value in (selector.get("matchLabels") or {}).items():
        if of.get(name) != value:
            return False
    for rule in selector.get("matchExpressions") or []:
        name, values = rule["key"], rule.get("values") or []
        holds = {
            "In": name in of and of[name] in values,
            "NotIn": of.get(name) not in values,
            "Exists": name in of,
            "DoesNotExist": name not in of,
        }
        if not holds[rule["operator"]]:
            return False
    return True


def has_address(pod):
    status = pod.get("status", {})
    return status.get("podIP") and not pod["spec"].get("hostNetwork") and status.get("phase") not in ("Succeeded", "Failed")


def set_of(words):
    return "{ " + ", ".join(sorted(set(words))) + " }"


def number_of(pod, name, protocol):
    """The number of a named port in a pod."""
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or []:
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return port["containerPort"]
    return None


def matches_of_ports(ports, targets):
    """What nft is to match for these ports, each with the pods that it holds for; None stands for all."""
    if not ports:
        return [("", None)]
    matches = []
    for port in ports:
        protocol, number = port.get("protocol", "TCP"), port.get("port")
        if number is None:
            matches.append((f"meta l4proto {protocol.lower()} ", None))
        elif isinstance(number, int):
            last = f"-{port['endPort']}" if port.get("endPort") else ""
            matches.append((f"{protocol.lower()} dport {number}{last} ", None))
        else:
            for pod in targets:
                if named := number_of(pod, number, protocol):
                    matches.append((f"{protocol.lower()} dport {named} ", [pod]))
    return matches


def chosen(peer, policy, pods, namespaces):
    """The pods that a peer of a policy means."""
    inside = {policy["metadata"]["namespace"]}
    if "namespaceSelector" in peer:
        inside = {name for (_, name), thing in namespaces.items() if selects(peer["namespaceSelector"], labels(thing))}
    return [p for p in pods if p["metadata"]["namespace"] in inside and selects(peer.get("podSelector") or {}, labels(p))]


def rules(direction, policy, target, pods, namespaces):
    """The lines of nft that let through what a policy allows to or from this pod."""
    ingress = direction == "Ingress"
    side = "saddr" if ingress else "daddr"
    for rule in policy["spec"].get(direction.lower()) or []:
        peers, ports = rule.get("from" if ingress else "to") or [], rule.get("ports")
        if not peers:
            for match, only in matches_of_ports(ports, [target] if ingress else pods):
                where = f"ip daddr {set_of(p['status']['podIP'] for p in only)} " if only and not ingress else ""
                yield f"{where}{match}return"
        for peer in peers:
            if "ipBlock" in peer:
                block = peer["ipBlock"]
                if ipaddress.ip_network(block["cidr"], False).version != 4:
                    continue
                but = f"ip {side} != {set_of(block['except'])} " if block.get("except") else ""
                for match, _ in matches_of_ports(ports, [target] if ingress else []):
                    yield f"ip {side} {block['cidr']} {but}{match}return"
            elif meant := chosen(peer, policy, pods, namespaces):
                for match, only in matches_of_ports(ports, [target] if ingress else meant):
                    them = only if only and not ingress else meant
                    yield f"ip {side} {set_of(p['status']['podIP'] for p in them)} {match}return"


def directions(policy):
    spec = policy["spec"]
    return spec.get("policyTypes") or ["Ingress"] + (["Egress"] if "egress" in spec else [])


def table():
    """The whole table, as a text that nft replaces in one step."""
    with lock:
        pods = sorted((pod for pod in objects["pods"].values() if has_address(pod)), key=key)
        namespaces, policies = dict(objects["namespaces"]), list(objects["policies"].values())
    chains, verdicts = [], {"Ingress": [], "Egress": []}
    for number, pod in enumerate(p for p in pods if p["spec"].get("nodeName") == NODE):
        of_pod = [p for p in policies if key(p)[0] == key(pod)[0] and selects(p["spec"].get("podSelector") or {}, labels(pod))]
        for direction in verdicts:
            mine = [policy for policy in of_pod if direction in directions(policy)]
            if mine:
                name = f"{direction.lower()}_{number}"
                lines = sorted({line for policy in mine for line in rules(direction, policy, pod, pods, namespaces)})
                body = "".join(f"    {line}\n" for line in lines)
                chains.append(f"  chain {name} {{ # {'/'.join(key(pod))}\n{body}    counter reject\n  }}\n")
                verdicts[direction].append(f"{pod['status']['podIP']} : jump {name}")
    jumps = {
        direction: f"    ip {side} vmap {set_of(verdicts[direction])}\n" if verdicts[direction] else ""
        for direction, side in (("Egress", "saddr"), ("Ingress", "daddr"))
    }
    known = "    ct state established,related accept\n"
    return (
        "add table inet netpol\ndelete table inet netpol\ntable inet netpol {\n" + "".join(chains)
        + "  chain forward {\n    type filter hook forward priority -5; policy accept;\n"
        + known + jumps["Egress"] + jumps["Ingress"] + "  }\n"
        + "  chain input {\n    type filter hook input priority -5; policy accept;\n" + known + jumps["Egress"] + "  }\n}\n"
    )


for each in PATHS:
    threading.Thread(target=follow, args=(each,), daemon=True).start()
last = None
while True:
    changed.wait()
    time.sleep(0.05)  # what comes together is written together
    changed.clear()
    if len(listed) < len(PATHS):
        continue
    text = table()
    if text != last:
        done = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
        if done.returncode:
            print(done.stderr, text, file=sys.stderr, flush=True)
            time.sleep(1)
            changed.set()
            continue
        last = text
        print(time.strftime("%T"), text.count("\n  chain ") - 2, "chains of pods", flush=True)
