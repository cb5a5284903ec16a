"""plumbery on real machines: its SSH and cloud-init really happen, and its nodes end up configured.

usage: plumbery_machine.py PLAN
"""

import sys
import tempfile
import time

from held import Held
from launch import identity, launch
from machine import PATIENCE, Machine

SECRET = "correct horse battery"


def is_configured(machine, server):
    """Everything the plan asks a node to do to itself."""
    card = server["networkInfo"]["primaryNic"]
    assert machine.said("hostname") == server["name"]
    told = dict(line.split("=") for line in machine.said("cat /etc/lean.conf").splitlines())
    assert told == {"private": card["privateIpv4"], "ipv6": card["ipv6"]}, told
    assert int(machine.said("df --output=size -B1G / | tail -n 1")) > 15, "the second disk is part of the root volume"
    assert "passwordauthentication no" in machine.said("sshd -T")
    assert machine.refuses("root", SECRET), "a password still opens the node"
    assert machine.said("ls /var/lib/cloud/instance/boot-finished")


def main():
    held, plan = Held(patience=PATIENCE), sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        key = identity(folder)
        launch(plan, "deploy", folder, SECRET)
        domain = held.one("network/networkDomain", name="LeanFox")
        assert domain["datacenterId"] == "EU7", domain
        public = {rule["internalIp"]: rule["externalIp"]
                  for rule in held.all("network/natRule", networkDomainId=domain["id"])}
        servers = held.all("server/server", networkDomainId=domain["id"])
        assert sorted(server["name"] for server in servers) == ["lean01", "lean02"], servers
        seen = set()
        for server in servers:
            server = held.settled("server/server/" + server["id"])
            assert server["started"] and [disk["sizeGb"] for disk in server["disk"]] == [10, 10], server
            address = public[server["networkInfo"]["primaryNic"]["privateIpv4"]]
            machine = Machine(address, "ubuntu", pkey=key)
            machine.until("test -e /root/configured")
            is_configured(machine, server)
            seen.add(machine.said("cat /etc/ssh/ssh_host_rsa_key.pub"))
            machine.leave()
        assert len(seen) == 1, "the plan gives all nodes one host key"

        launch(plan, "dispose", folder, SECRET)
        assert held.all("server/server", networkDomainId=domain["id"]) == []
        held.gone("network/networkDomain/" + domain["id"])


started = time.monotonic()
main()
print("done: {:.1f} s".format(time.monotonic() - started))
