"""plumbery, as it is, through the life of the reference fleet in its own format.

usage: plumbery_life.py PLAN [deploy]

After each action it is asked what the cloud then holds, by way of the cloud's JSON API, and which calls were made.
With `deploy` it is that action only, for who measures it.
"""

import collections
import os
import sys
import tempfile

import yaml

from held import Held
from launch import identity, launch
from nodes import Nodes

SECRET = "correct horse battery"
DOMAIN = "RethinkFox"
SEED = "EU7rethinkSeed"
SEED_NETWORK, NETWORK = "RethinkSeedNetwork", "RethinkNetwork"
# Node, and the network it is in.
NODES = {
    SEED: ("EU7", SEED_NETWORK),
    "EU7rethink01": ("EU7", NETWORK),
    "EU6rethink01": ("EU6", NETWORK),
    "EU8rethink01": ("EU8", NETWORK),
    "EU9rethink01": ("EU9", NETWORK),
}
NETWORKS = sorted(set(NODES.values()))
LOCATIONS = sorted({location for location, _ in NETWORKS})
SUBNETS = {SEED_NETWORK: "10.70.0.0", NETWORK: "10.60.0.0"}
OPEN = [("ICMP", None), ("TCP", 22), ("TCP", 5000), ("TCP", 8080)]
FIRST = {
    "DEPLOY_NETWORK_DOMAIN": 4, "DEPLOY_VLAN": 5, "DEPLOY_SERVER": 5, "CREATE_FIREWALL_RULE": 42,
    "EDIT_FIREWALL_RULE": 5, "ENABLE_SERVER_MONITORING": 5, "ADD_DISK": 5, "ADD_PUBLIC_IP_BLOCK": 4,
    "CREATE_NAT_RULE": 5, "START_SERVER": 5, "UPDATE_VMWARE_TOOLS": 5, "REBOOT_SERVER": 5,
}


class Life:
    def __init__(self, plan, folder):
        self.plan, self.folder, self.held = plan, folder, Held()
        self.nodes = Nodes(os.path.join(folder, "nodes"), SECRET)
        self.key = identity(folder).get_base64()

    def run(self, action):
        """Runs an action; gives what it said and the changing calls it made, by operation."""
        before = self.log()["count"]
        said = launch(self.plan, action, self.folder, SECRET, NODES_PORT=str(self.nodes.port))
        calls = self.log(before)["calls"]
        print("{}: {} calls".format(action, len(calls)), flush=True)
        calls = [call for call in calls if call["changing"]]
        return said, collections.Counter(call["operation"] for call in calls)

    def log(self, after=0):
        answer = self.held.http.get(self.held.base + "/fleet/log", params={"after": after})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def servers(self):
        """Servers by name, once nothing is under way."""
        return {one["name"]: self.held.settled("server/server/" + one["id"]) for one in self.held.all("server/server")}

    def vlans(self):
        return {(vlan["datacenterId"], vlan["name"]): vlan for vlan in self.held.all("network/vlan")}

    def domains(self):
        return {domain["datacenterId"]: domain for domain in self.held.all("network/networkDomain")}

    def of_domains(self, path):
        domains = self.domains().values()
        return [item for domain in domains for item in self.held.all(path, networkDomainId=domain["id"])]

    def public(self):
        """Public addresses by private address and location."""
        rules = self.of_domains("network/natRule")
        return {(rule["datacenterId"], rule["internalIp"]): rule["externalIp"] for rule in rules}

    def address_of(self, server):
        return self.public()[server["datacenterId"], server["networkInfo"]["primaryNic"]["privateIpv4"]]


def only_known(calls, wanted):
    assert calls == collections.Counter(wanted), dict(calls)


def networks_are_there(life):
    domains = life.domains()
    assert sorted(domains) == LOCATIONS and len(life.held.all("network/networkDomain")) == 4, domains
    for domain in domains.values():
        assert (domain["name"], domain["type"], domain["state"]) == (DOMAIN, "ESSENTIALS", "NORMAL"), domain
        assert "#plumbery" in domain["description"], domain
    vlans = life.vlans()
    assert sorted(vlans) == NETWORKS, vlans
    for (location, name), vlan in vlans.items():
        assert vlan["state"] == "NORMAL" and vlan["networkDomain"]["id"] == domains[location]["id"], vlan
        assert vlan["privateIpv4Range"] == {"address": SUBNETS[name], "prefixSize": 24}, vlan


def servers_are_there(life, started):
    servers, vlans = life.servers(), life.vlans()
    assert sorted(servers) == sorted(NODES), servers
    for name, (location, network) in NODES.items():
        server = servers[name]
        assert (server["state"], server["started"], server["deployed"]) == ("NORMAL", started, True), server
        assert (server["datacenterId"], server["cpu"]["count"], server["memoryGb"]) == (location, 2, 4), server
        disks = [(disk["scsiId"], disk["sizeGb"], disk["speed"]) for disk in server["disk"]]
        assert disks == [(0, 10, "STANDARD"), (1, 100, "STANDARD")], disks
        assert server["networkInfo"]["primaryNic"]["vlanId"] == vlans[location, network]["id"], server
        assert server["monitoring"]["servicePlan"] == "ESSENTIALS", server
    return servers


def addresses_are_there(life, servers):
    assert len(life.of_domains("network/publicIpBlock")) == 4
    public = life.public()
    assert len(set(public.values())) == 5, public
    want = {(one["datacenterId"], one["networkInfo"]["primaryNic"]["privateIpv4"]) for one in servers.values()}
    assert set(public) == want, public


def rules_are_there(life, servers):
    """What is open is what the plan says, and nothing else."""
    vlans, rules = life.vlans(), life.of_domains("network/firewallRule")
    defaults = [rule for rule in rules if rule["ruleType"] == "DEFAULT_RULE"]
    assert len(defaults) == 20
    for rule in defaults:
        assert rule["enabled"] is (rule["name"] != "CCDEFAULT.DenyExternalInboundIPv6"), rule
    want = set()
    for here in NETWORKS:
        for there in NETWORKS:
            if here == there:
                continue
            ranges = [("IPV6", "ipv6Range")]
            if there[0] == here[0]:
                ranges.append(("IPV4", "privateIpv4Range"))
            for version, member in ranges:
                source, destination = vlans[there][member], vlans[here][member]
                want.add((here[0], version, "IP", source["address"], source["prefixSize"],
                          destination["address"], destination["prefixSize"], None))
    for server in servers.values():
        address = life.address_of(server)
        want |= {(server["datacenterId"], "IPV4", protocol, "ANY", None, address, None, port) for protocol, port in OPEN}
    held = []
    for rule in rules:
        if rule["ruleType"] != "CLIENT_RULE":
            continue
        assert rule["action"] == "ACCEPT_DECISIVELY" and rule["enabled"] and rule["name"].endswith(".plumbery"), rule
        source, destination = rule["source"]["ip"], rule["destination"]["ip"]
        held.append((rule["datacenterId"], rule["ipVersion"], rule["protocol"], source["address"],
                     source.get("prefixSize"), destination["address"], destination.get("prefixSize"),
                     rule["destination"].get("port", {}).get("begin")))
    assert len(held) == len(want) == 42 and set(held) == want, (set(held) ^ want, len(held))


def nodes_were_prepared(life, servers):
    """Over SSH each node was given what it needs to configure itself at its next boot."""
    seen = {name: life.nodes.nodes[life.address_of(server)] for name, server in servers.items()}
    assert life.nodes.touched() == {life.address_of(server) for server in servers.values()}
    keys = set()
    for name, node in seen.items():
        assert node.read("/var/lib/cloud/seed/nocloud-net/meta-data").strip() == "instance_id: dummy"
        text = node.read("/var/lib/cloud/seed/nocloud-net/user-data")
        assert text.startswith("#cloud-config\n") and "{{" not in text, text
        data = yaml.safe_load(text)
        assert data["hostname"] == name and data["ssh_pwauth"] is False, data
        assert data["packages"] == ["ntp", "git", "python-pip"], data["packages"]
        assert [user if isinstance(user, str) else user["name"] for user in data["users"]] == ["default", "ubuntu", "root"]
        keys.add(data["ssh_keys"]["rsa_public"])
        hosts = [file["content"] for file in data["write_files"] if file["path"] == "/root/fleet.hosts"]
        for other, server in servers.items():
            card = server["networkInfo"]["primaryNic"]
            assert "{} {}".format(card["privateIpv4"], other) in hosts[0], hosts
            assert card["ipv6"].replace(":0:", ":") in hosts[0].replace(":0:", ":"), hosts
        join = any("join=" in str(line) for line in data["runcmd"])
        assert join is (name != SEED), data["runcmd"]
        assert any("prepare.cloud-init.sh" in command for command in node.commands), node.commands
    assert len(keys) == 1, "all nodes bear one key"
    assert any(life.key in node.read(".ssh/authorized_keys") for node in seen.values()
               if os.path.exists(node.at(".ssh/authorized_keys")))


def main():
    with tempfile.TemporaryDirectory() as folder:
        life = Life(sys.argv[1], folder)
        _, calls = life.run("deploy")
        if sys.argv[2:] == ["deploy"]:
            servers_are_there(life, started=True)
            return
        servers = servers_are_there(life, started=True)
        networks_are_there(life)
        addresses_are_there(life, servers)
        rules_are_there(life, servers)
        nodes_were_prepared(life, servers)
        only_known(calls, FIRST)

        said, calls = life.run("information")
        only_known(calls, {})
        for name, server in servers.items():
            address = life.address_of(server)
            for line in ("ssh ubuntu@" + address, "http://{}:5000".format(address), "http://{}:8080".format(address)):
                assert line in said, (line, said)
        assert "EU7rethinkSeed, the seed of the cluster" in said, said

        _, calls = life.run("build")
        only_known(calls, {"EDIT_FIREWALL_RULE": 5, "ENABLE_SERVER_MONITORING": 5})
        assert servers_are_there(life, started=True) == servers

        _, calls = life.run("stop")
        only_known(calls, {"SHUTDOWN_SERVER": 5})
        servers_are_there(life, started=False)

        _, calls = life.run("start")
        only_known(calls, {"START_SERVER": 5})
        rules_are_there(life, servers_are_there(life, started=True))

        life.run("dispose")
        for path in ("server/server", "network/vlan", "network/publicIpBlock"):
            assert life.held.all(path) == [], path
        for domain in life.held.all("network/networkDomain"):
            life.held.gone("network/networkDomain/" + domain["id"])
        assert life.held.all("network/firewallRule") == []


main()
