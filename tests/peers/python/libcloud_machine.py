"""Apache Libcloud on real machines: what it asks for is what a machine then is, seen from within.

usage: libcloud_machine.py
"""

import time

from libcloud.common.dimensiondata import DimensionDataServerCpuSpecification

from held import Held
from libcloud_life import PASSWORD, World, address, dimensiondata, rule
from machine import PATIENCE, Machine


def is_as_asked(world, machine, node):
    card = world.raw(node)["networkInfo"]["primaryNic"]
    assert machine.said("hostname") == node.name
    assert machine.said("nproc") == "2"
    memory = int(machine.said("sed -n s/[^0-9]*//gp /proc/meminfo | head -n 1"))
    assert 900 << 10 < memory <= 1 << 20, memory
    addresses = machine.said("ip -o address show dev eth0")
    assert card["privateIpv4"] + "/24" in addresses, addresses
    assert machine.said("cat /sys/class/net/eth0/address") == card["macAddress"].lower()


def cloud_tells_the_time(machine):
    """Whatever other servers can be reached, the cloud's own answers."""
    machine.said("systemctl start chrony")
    # Returns as soon as the clock is set by somebody's.
    machine.said("chronyc waitsync {} 0 0 1".format(PATIENCE))
    cloud = machine.said("cut -d \" \" -f 2 /etc/chrony/sources.d/cloud.sources")
    sources = [line.split(",") for line in machine.said("chronyc -n -c sources").splitlines()]
    [(stratum, reach)] = [(source[3], source[5]) for source in sources if source[2] == cloud]
    assert stratum == "1" and reach != "0", sources
    tracking = machine.said("chronyc -c tracking").split(",")
    assert tracking[-1] == "Normal", tracking


def main():
    held, driver = Held(patience=PATIENCE), dimensiondata()
    world = World(driver, held, "peers", location="EU6")
    one = world.server(
        "peer01", ex_memory_gb=1, ex_cpu_specification=DimensionDataServerCpuSpecification("2", "1", "STANDARD"))
    assert world.raw(one)["started"] is False
    block = driver.ex_add_public_ip_block_to_network_domain(world.domain)
    driver.ex_create_nat_rule(world.domain, one.private_ips[0], block.base_ip)
    ssh = driver.ex_create_firewall_rule(
        world.domain, rule(world, "Ssh", address(), address(block.base_ip, port="22")), "LAST")

    first = Machine(block.base_ip, password=PASSWORD)
    assert not first.is_open(), "it is not started"
    assert driver.ex_start_node(one)
    assert world.settled(one)["started"] is True
    first.until("true")
    is_as_asked(world, first, one)
    cloud_tells_the_time(first)

    # The filter follows the rules at once, also for who is in already.
    assert driver.ex_set_firewall_rule_state(ssh, False)
    assert not first.is_open(), "the rule is off"
    assert driver.ex_set_firewall_rule_state(ssh, True)
    assert first.is_open(), "the rule is on again"

    # A disk added to a running machine is there at once, with its size.
    assert driver.ex_add_storage_to_node(one, 7)
    world.settled(one)
    first.until("test \"$(blockdev --getsize64 /dev/sdb)\" = {}".format(7 << 30))
    first.said("echo on-the-second >/dev/sdb; echo on-the-first >/root/kept")
    key, boot = first.key(), first.said("cat /proc/sys/kernel/random/boot_id")

    # Asked to shut down it does so properly: what it wrote is there when it starts again.
    assert driver.ex_shutdown_graceful(one)
    assert world.settled(one)["started"] is False
    first.leave()
    assert not first.is_open(), "it is down"

    # An image of it, and a machine of that image, which is another one with the same on its disks.
    assert driver.ex_clone_node_to_image(one, "golden")
    world.settled(one)
    [image] = driver.ex_list_customer_images(location=world.location)
    assert held.get("image/customerImage/" + image.id)["state"] == "NORMAL"
    other = str(block.base_ip).rsplit(".", 1)
    other = "{}.{}".format(other[0], int(other[1]) + 1)
    assert driver.ex_start_node(one)
    two = world.server("peer02", started=True, image=image, ex_memory_gb=1)
    driver.ex_create_nat_rule(world.domain, two.private_ips[0], other)
    driver.ex_create_firewall_rule(
        world.domain, rule(world, "SshToTheCopy", address(), address(other, port="22")), "LAST")
    second = Machine(other, password=PASSWORD)
    for machine, node in ((first, one), (second, two)):
        machine.until("true")
        is_as_asked(world, machine, node)
        assert machine.said("cat /root/kept") == "on-the-first"
        assert machine.said("head -n 1 /dev/sdb") == "on-the-second"
        assert machine.said("cat /proc/sys/kernel/random/boot_id") != boot
    assert first.key() == key and second.key() != key
    ids = [machine.said("cat /etc/machine-id") for machine in (first, second)]
    assert ids[0] != ids[1] and all(len(one) == 32 for one in ids), ids
    second.said("ping -c 1 -W 10 " + one.private_ips[0])
    first.leave()
    second.leave()

    for node in (one, two):
        world.removed(node)
    assert not first.is_open() and not second.is_open()
    for nat in driver.ex_list_nat_rules(world.domain):
        assert driver.ex_delete_nat_rule(nat)
    assert driver.ex_delete_public_ip_block(block)
    assert driver.ex_delete_vlan(world.vlan)
    held.gone("network/vlan/" + world.vlan.id)
    assert driver.ex_delete_network_domain(world.domain)
    held.gone("network/networkDomain/" + world.domain.id)


started = time.monotonic()
main()
print("done: {:.1f} s".format(time.monotonic() - started))
