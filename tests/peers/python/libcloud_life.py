"""Apache Libcloud's drivers, as they are, through the life of everything they know.

usage: libcloud_life.py SCENARIO

Each scenario does something with the driver, then looks at what the cloud holds by way of its JSON API.
"""

import os
import sys

from libcloud.common.dimensiondata import (
    DimensionDataAPIException,
    DimensionDataFirewallAddress,
    DimensionDataFirewallRule,
    DimensionDataIpAddress,
    DimensionDataNic,
    DimensionDataPort,
    DimensionDataServerCpuSpecification,
    DimensionDataServerDisk,
)
from libcloud.common.types import InvalidCredsError
from libcloud.compute.base import NodeAuthPassword
from libcloud.compute.providers import get_driver
from libcloud.compute.types import NodeState, Provider

from held import Held, refused

SCENARIOS = {}
PASSWORD = "correct horse"


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def dimensiondata(region="dd-eu", **more):
    driver = get_driver(Provider.DIMENSIONDATA)
    return driver(os.environ["MCP_USERNAME"], os.environ["MCP_PASSWORD"], region=region, **more)


def nttcis(**more):
    driver = get_driver(Provider.NTTCIS)
    return driver(os.environ["MCP_USERNAME"], os.environ["MCP_PASSWORD"], region="eu", **more)


class World:
    """A network domain with a VLAN, for scenarios about what is in them."""

    def __init__(self, driver, held, name="RethinkFox", location="EU7"):
        self.driver, self.held = driver, held
        self.location = driver.ex_get_location_by_id(location)
        made = driver.ex_create_network_domain(self.location, name, "ESSENTIALS", description="#peers")
        held.settled("network/networkDomain/" + made.id)
        self.domain = driver.ex_get_network_domain(made.id)
        self.vlan = self.network("front", "10.70.0.0")
        self.image = driver.list_images(location=self.location)[0]

    def network(self, name, base, **more):
        vlan = self.driver.ex_create_vlan(self.domain, name, base, **more)
        self.held.settled("network/vlan/" + vlan.id)
        return self.driver.ex_get_vlan(vlan.id)

    def server(self, name, started=False, image=None, **more):
        more.setdefault("ex_primary_nic_vlan", self.vlan)
        node = self.driver.create_node(
            name, image or self.image, NodeAuthPassword(PASSWORD), ex_network_domain=self.domain,
            ex_is_started=started, **more
        )
        self.settled(node)
        return self.driver.ex_get_node_by_id(node.id)

    def settled(self, node):
        return self.held.settled("server/server/" + node.id)

    def raw(self, node):
        return self.held.get("server/server/" + node.id)

    def removed(self, node):
        if self.raw(node)["started"]:
            assert self.driver.ex_power_off(node)
            self.settled(node)
        assert self.driver.destroy_node(node)
        self.held.gone("server/server/" + node.id)


@scenario
def account_and_catalogue():
    held, driver = Held(), dimensiondata()
    details = driver.connection.get_account_details()
    assert details.user_name == os.environ["MCP_USERNAME"], details.user_name
    assert [place.id for place in driver.list_locations()] == ["EU6", "EU7", "EU8", "EU9"]
    assert driver.ex_get_location_by_id("EU7").country == "NL"
    assert [place["id"] for place in held.all("infrastructure/datacenter")] == ["EU6", "EU7", "EU8", "EU9"]

    images = driver.list_images()
    assert {image.id for image in images} == {image["id"] for image in held.all("image/osImage")}
    here = driver.list_images(location="EU7")
    assert len(here) * 4 == len(images)
    assert any("Ubuntu 14" in image.name for image in here), here
    image = driver.ex_get_image_by_id(here[0].id)
    assert image.name == here[0].name and image.extra["OS_type"] == "UNIX", image.extra
    assert image.extra["cpu"].cpu_count == 2 and image.extra["memoryGb"] == "4", image.extra
    assert driver.ex_list_customer_images() == []
    refused("RESOURCE_NOT_FOUND", driver.ex_get_image_by_id, "00000000-0000-4000-8000-000000000000")
    assert driver.list_networks() == []
    assert driver.list_nodes() == []
    assert "europe" in {region["id"] for region in held.all("infrastructure/geographicRegion")}
    assert held.all("infrastructure/operatingSystem")

    wrong = get_driver(Provider.DIMENSIONDATA)("fleet", "wrong", region="dd-eu")
    try:
        wrong.list_locations()
        raise AssertionError("wrong credentials are good enough")
    except InvalidCredsError:
        pass


@scenario
def regions():
    europe, america = dimensiondata(), dimensiondata("dd-na")
    there = Held("api-na.dimensiondata.com")
    assert [place.id for place in america.list_locations()] == ["NA9", "NA12"]
    made = america.ex_create_network_domain("NA9", "abroad", "ADVANCED")
    there.settled("network/networkDomain/" + made.id)
    assert [domain.id for domain in america.ex_list_network_domains()] == [made.id]
    assert europe.ex_list_network_domains() == []
    refused("RESOURCE_NOT_FOUND", europe.ex_get_network_domain, made.id)
    refused("RESOURCE_NOT_FOUND", europe.ex_delete_network_domain, made)
    assert america.ex_delete_network_domain(made)
    there.gone("network/networkDomain/" + made.id)
    assert dimensiondata("dd-latam").list_locations() == []


@scenario
def network_domains_and_vlans():
    held, driver = Held(), dimensiondata()
    location = driver.ex_get_location_by_id("EU7")
    made = driver.ex_create_network_domain(location, "RethinkFox", "ESSENTIALS", description="#peers")
    domain = driver.ex_wait_for_state("NORMAL", driver.ex_get_network_domain, 0.05, 20, made.id)
    raw = held.get("network/networkDomain/" + domain.id)
    assert (raw["name"], raw["description"], raw["type"]) == ("RethinkFox", "#peers", "ESSENTIALS"), raw
    assert (raw["datacenterId"], raw["state"]) == ("EU7", "NORMAL") and raw["snatIpv4Address"], raw
    assert "progress" not in raw, raw
    refused("NAME_NOT_UNIQUE", driver.ex_create_network_domain, location, "rethinkfox", "ESSENTIALS")
    refused("RESOURCE_NOT_FOUND", driver.ex_create_network_domain, "NA9", "x", "ESSENTIALS")

    domain.name, domain.description, domain.plan = "RethinkWolf", "#peers too", "ADVANCED"
    driver.ex_update_network_domain(domain)
    raw = held.get("network/networkDomain/" + domain.id)
    assert (raw["name"], raw["description"], raw["type"]) == ("RethinkWolf", "#peers too", "ADVANCED"), raw
    named = driver.ex_list_network_domains(location=location, name="RethinkWolf", service_plan="ADVANCED", state="NORMAL")
    assert [found.id for found in named] == [domain.id]
    assert driver.ex_list_network_domains(name="RethinkFox") == []

    # From the first answer on a VLAN has its ranges: the driver reads them at once.
    vlan = driver.ex_create_vlan(domain, "front", "10.70.0.0", description="#peers", private_ipv4_prefix_size=25)
    assert vlan.private_ipv4_range_address == "10.70.0.0" and vlan.private_ipv4_range_size == 25, vlan
    assert vlan.ipv6_range_size == 64 and "::" not in vlan.ipv6_range_address, vlan
    vlan = driver.ex_wait_for_state("NORMAL", driver.ex_get_vlan, 0.05, 20, vlan.id)
    raw = held.get("network/vlan/" + vlan.id)
    assert raw["networkDomain"] == {"id": domain.id, "name": "RethinkWolf"}, raw
    assert raw["ipv4GatewayAddress"] == vlan.ipv4_gateway == "10.70.0.1", raw
    assert raw["ipv6Range"]["address"] == vlan.ipv6_range_address, raw
    refused("IP_ADDRESS_NOT_UNIQUE", driver.ex_create_vlan, domain, "other", "10.70.0.64", private_ipv4_prefix_size=26)
    refused("NAME_NOT_UNIQUE", driver.ex_create_vlan, domain, "FRONT", "10.71.0.0")

    vlan.name, vlan.description = "edge", "#peers too"
    driver.ex_update_vlan(vlan)
    vlan.private_ipv4_range_size = "24"
    driver.ex_expand_vlan(vlan)
    raw = held.settled("network/vlan/" + vlan.id)
    assert (raw["name"], raw["description"]) == ("edge", "#peers too"), raw
    assert raw["privateIpv4Range"] == {"address": "10.70.0.0", "prefixSize": 24}, raw
    found = driver.ex_list_vlans(location=location, network_domain=domain, name="edge", ipv4_address="10.70.0.0",
                                 ipv6_address=vlan.ipv6_range_address, state="NORMAL")
    assert [one.id for one in found] == [vlan.id], found
    assert driver.ex_list_vlans(ipv4_address="10.71.0.0") == []

    refused("HAS_DEPENDENCY", driver.ex_delete_network_domain, domain)
    assert driver.ex_delete_vlan(vlan)
    held.gone("network/vlan/" + vlan.id)
    refused("RESOURCE_NOT_FOUND", driver.ex_get_vlan, vlan.id)
    assert driver.ex_delete_network_domain(domain)
    held.gone("network/networkDomain/" + domain.id)
    assert held.all("network/firewallRule") == []


@scenario
def nodes():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    cpu = DimensionDataServerCpuSpecification(cpu_count=1, cores_per_socket=1, performance="STANDARD")
    node = driver.create_node(
        "seed", world.image, NodeAuthPassword("correct horse"), ex_network_domain=world.domain,
        ex_primary_nic_vlan=world.vlan, ex_is_started=False, ex_description="#peers", ex_cpu_specification=cpu,
        ex_memory_gb=2, ex_disks=[DimensionDataServerDisk(scsi_id="0", speed="HIGHPERFORMANCE")],
        ex_primary_dns="10.0.0.1", ex_secondary_dns="10.0.0.2",
    )
    # There at once, with its addresses, and busy.
    assert node.private_ips == ["10.70.0.7"] and ":" in node.extra["ipv6"], node.private_ips
    assert node.extra["status"].action == "DEPLOY_SERVER_WITH_DISK_SPEED", node.extra["status"]
    refused("RESOURCE_BUSY", driver.start_node, node)
    raw = world.settled(node)
    assert (raw["name"], raw["description"], raw["started"], raw["deployed"]) == ("seed", "#peers", False, True), raw
    assert (raw["cpu"]["count"], raw["memoryGb"], raw["sourceImageId"]) == (1, 2, world.image.id), raw
    assert [disk["speed"] for disk in raw["disk"]] == ["HIGHPERFORMANCE"], raw
    node = driver.ex_get_node_by_id(node.id)
    assert node.state == NodeState.STOPPED and node.extra["status"].action is None, node

    # Found by everything the driver can filter with; and the driver's own paging ends.
    world.server("other", ex_primary_nic_private_ipv4="10.70.0.99", ex_primary_nic_vlan=None)
    world.server("third")
    assert sorted(one.name for one in driver.list_nodes()) == ["other", "seed", "third"]
    found = driver.list_nodes(
        ex_location=world.location, ex_name="seed", ex_ipv4="10.70.0.7", ex_ipv6=node.extra["ipv6"], ex_vlan=world.vlan,
        ex_image=world.image, ex_deployed=True, ex_started=False, ex_state="NORMAL", ex_network_domain=world.domain,
    )
    assert [one.id for one in found] == [node.id], found
    assert driver.list_nodes(ex_started=True) == [] and driver.list_nodes(ex_name="nobody") == []
    assert [one.name for one in driver.list_nodes(ex_ipv4="10.70.0.99")] == ["other"]
    refused("IP_ADDRESS_NOT_UNIQUE", driver.create_node, "twin", world.image, NodeAuthPassword("correct horse"),
            ex_network_domain=world.domain, ex_primary_nic_private_ipv4="10.70.0.99")
    refused("IP_ADDRESS_OUT_OF_RANGE", driver.create_node, "lost", world.image, NodeAuthPassword("correct horse"),
            ex_network_domain=world.domain, ex_primary_nic_private_ipv4="10.99.0.9")

    # Power.
    assert driver.start_node(node)
    busy = driver.ex_get_node_by_id(node.id)
    assert busy.state == NodeState.STARTING and busy.extra["status"].action == "START_SERVER", busy.extra["status"]
    refused("RESOURCE_BUSY", driver.reboot_node, node)
    node = driver.ex_wait_for_state("running", driver.ex_get_node_by_id, 0.05, 20, node.id)
    world.settled(node)
    refused("SERVER_STARTED", driver.start_node, node)
    refused("SERVER_STARTED", driver.destroy_node, node)
    assert driver.reboot_node(node)
    busy = driver.ex_get_node_by_id(node.id)
    assert busy.state == NodeState.REBOOTING and busy.extra["status"].action == "REBOOT_SERVER", busy.extra["status"]
    world.settled(node)
    assert driver.ex_reset(node)
    world.settled(node)
    assert driver.ex_shutdown_graceful(node)
    busy = driver.ex_get_node_by_id(node.id)
    assert busy.state == NodeState.STOPPING and busy.extra["status"].action == "SHUTDOWN_SERVER", busy.extra["status"]
    assert world.settled(node)["started"] is False
    refused("SERVER_STOPPED", driver.stop_node, node)
    assert driver.ex_start_node(node)
    world.settled(node)
    assert driver.ex_power_off(node)
    assert world.settled(node)["started"] is False
    assert driver.ex_power_off(node), "the driver takes a stopped server for a success"
    refused("NO_CHANGE", driver.ex_update_vm_tools, node)

    # Shape.
    assert driver.ex_reconfigure_node(node, memory_gb=4, cpu_count=4, cores_per_socket=2, cpu_performance="HIGHPERFORMANCE")
    raw = world.settled(node)
    assert (raw["memoryGb"], raw["cpu"]) == (4, {"count": 4, "coresPerSocket": 2, "speed": "HIGHPERFORMANCE"}), raw
    refused("EXCEEDS_LIMIT", driver.ex_reconfigure_node, node, 4, 1000, None, None)
    assert driver.ex_update_node(node, name="seed2", description="renamed", cpu_count=2, ram_mb=8192)
    raw = world.settled(node)
    assert (raw["name"], raw["description"], raw["cpu"]["count"], raw["memoryGb"]) == ("seed2", "renamed", 2, 8), raw

    refused("HAS_DEPENDENCY", driver.ex_delete_vlan, world.vlan)
    for one in driver.list_nodes():
        world.removed(one)
    assert held.all("server/server") == []


@scenario
def failed_nodes_are_cleaned():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    held.fault(kind="fail_deploy", subject="bad")
    node = driver.create_node("bad", world.image, NodeAuthPassword("correct horse"), ex_network_domain=world.domain,
                              ex_primary_nic_vlan=world.vlan, ex_is_started=True)
    raw = world.settled(node)
    assert raw["state"] == "FAILED_ADD" and raw["progress"]["failureReason"], raw
    failed = driver.ex_get_node_by_id(node.id)
    assert failed.extra["status"].failure_reason, failed.extra["status"]
    refused("INVALID_STATUS", driver.start_node, node)
    assert driver.ex_clean_failed_deployment(node)
    held.gone("server/server/" + node.id)
    good = world.server("good")
    refused("INVALID_STATUS", driver.ex_clean_failed_deployment, good)
    for code in ("RESOURCE_LOCKED", "INFRASTRUCTURE_IN_MAINTENANCE", "RETRYABLE_SYSTEM_ERROR", "OUT_OF_RESOURCES"):
        held.fault(kind="refuse", code=code, operation="START_SERVER")
        refused(code, driver.start_node, good)


@scenario
def disks():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    node = world.server("seed")

    def held_disks():
        return [(disk["scsiId"], disk["sizeGb"], disk["speed"]) for disk in world.settled(node)["disk"]]

    assert driver.ex_add_storage_to_node(node, 20)
    assert held_disks() == [(0, 10, "STANDARD"), (1, 20, "STANDARD")]
    assert driver.ex_add_storage_to_node(node, 30, speed="economy", scsi_id=5)
    assert held_disks() == [(0, 10, "STANDARD"), (1, 20, "STANDARD"), (5, 30, "ECONOMY")]
    refused("INVALID_INPUT_DATA", driver.ex_add_storage_to_node, node, 30, scsi_id=5)
    refused("INVALID_INPUT_DATA", driver.ex_add_storage_to_node, node, 30, scsi_id=7)
    refused("INVALID_INPUT_DATA", driver.ex_add_storage_to_node, node, 30, speed="WARP")
    node = driver.ex_get_node_by_id(node.id)
    second = [disk for disk in node.extra["disks"] if disk.scsi_id == 1][0]
    assert driver.ex_change_storage_size(node, second.id, 40)
    assert held_disks()[1] == (1, 40, "STANDARD")
    refused("ERROR", driver.ex_change_storage_size, node, second.id, 30)
    assert driver.ex_change_storage_speed(node, second.id, "highperformance")
    assert held_disks()[1] == (1, 40, "HIGHPERFORMANCE")
    refused("ERROR", driver.ex_change_storage_size, node, "00000000-0000-4000-8000-000000000000", 50)
    assert driver.ex_remove_storage_from_node(node, 5)
    assert held_disks() == [(0, 10, "STANDARD"), (1, 40, "HIGHPERFORMANCE")]
    assert driver.ex_remove_storage(second.id)
    assert held_disks() == [(0, 10, "STANDARD")]
    refused("RESOURCE_NOT_FOUND", driver.ex_remove_storage, second.id)


@scenario
def network_cards():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    back, third = world.network("back", "10.71.0.0"), world.network("third", "10.72.0.0")
    node = world.server("seed", ex_additional_nics=[DimensionDataNic(vlan=back, network_adapter_name="VMXNET3")])

    def cards():
        network = world.settled(node)["networkInfo"]
        return [network["primaryNic"]] + network["additionalNic"]

    assert [card["vlanId"] for card in cards()] == [world.vlan.id, back.id]
    assert cards()[1]["networkAdapter"] == "VMXNET3"
    assert driver.ex_attach_node_to_vlan(node, private_ipv4="10.72.0.30")
    added = cards()[2]
    assert (added["vlanId"], added["privateIpv4"], added["state"]) == (third.id, "10.72.0.30", "NORMAL"), added
    refused("INVALID_INPUT_DATA", driver.ex_attach_node_to_vlan, node, vlan=third)
    before = cards()
    assert driver.ex_exchange_nic_vlans(before[1]["id"], before[2]["id"])
    after = cards()
    assert [card["vlanId"] for card in after] == [world.vlan.id, third.id, back.id], after
    assert [card["macAddress"] for card in after] == [card["macAddress"] for card in before], after
    assert driver.ex_change_nic_network_adapter(after[1]["id"], "E1000")
    assert cards()[1]["networkAdapter"] == "E1000"
    refused("INVALID_INPUT_DATA", driver.ex_change_nic_network_adapter, after[1]["id"], "CARRIER_PIGEON")
    assert driver.ex_destroy_nic(after[2]["id"])
    assert [card["vlanId"] for card in cards()] == [world.vlan.id, third.id]
    refused("RESOURCE_NOT_FOUND", driver.ex_destroy_nic, after[0]["id"])
    refused("HAS_DEPENDENCY", driver.ex_delete_vlan, third)
    assert driver.ex_delete_vlan(back)


@scenario
def images_of_our_own():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    node = world.server("seed")
    driver.ex_create_tag_key("origin")
    key = driver.ex_get_tag_key_by_name("origin")
    assert driver.ex_clone_node_to_image(node, "golden", "of the seed", is_guest_Os_Customization="true",
                                         tag_key_id=key.id, tag_value="seed")
    assert driver.ex_get_node_by_id(node.id).extra["status"].action == "CLONE_SERVER"
    world.settled(node)
    raw = held.one("image/customerImage", datacenterId="EU7", name="golden")
    assert raw["state"] == "NORMAL" and raw["source"]["artifact"][0]["value"] == node.id, raw
    refused("NAME_NOT_UNIQUE", driver.ex_clone_node_to_image, node, "Golden")
    mine = driver.ex_list_customer_images(location="EU7")
    assert [image.name for image in mine] == ["golden"] and mine[0].extra["isCustomerImage"], mine
    image = driver.ex_get_image_by_id(mine[0].id)
    assert image.extra["isCustomerImage"] and image.extra["OS_type"] == "UNIX", image.extra
    assert [tag.asset_id for tag in driver.ex_list_tags(asset_type="CUSTOMER_IMAGE")] == [image.id]

    copy = driver.create_node("copy", image, None, ex_network_domain=world.domain, ex_primary_nic_vlan=world.vlan,
                              ex_is_started=True)
    assert world.settled(copy)["sourceImageId"] == image.id
    plain = driver.ex_create_node_uncustomized(
        "plain", world.image, world.domain, ex_is_started=False, ex_description="as it is", ex_primary_nic_vlan=world.vlan,
        ex_tagname_value_pairs={"origin": "image"},
        ex_cpu_specification=DimensionDataServerCpuSpecification("2", "1", "STANDARD"), ex_memory_gb=2,
    )
    raw = world.settled(plain)
    assert (raw["name"], raw["memoryGb"], raw["tag"]) == ("plain", 2, [{"tagKeyName": "origin", "value": "image"}]), raw
    assert driver.ex_clone_node_to_image(node, "raw", is_guest_Os_Customization="false")
    world.settled(node)
    raw_image = [one for one in driver.ex_list_customer_images() if one.name == "raw"][0]
    refused("INCOMPATIBLE_OPERATION", driver.create_node, "no", raw_image, None, ex_network_domain=world.domain,
            ex_primary_nic_vlan=world.vlan)


@scenario
def public_addresses_and_translations():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    node = world.server("seed")
    assert driver.ex_list_public_ip_blocks(world.domain) == []
    block = driver.ex_add_public_ip_block_to_network_domain(world.domain)
    raw = held.one("network/publicIpBlock", networkDomainId=world.domain.id)
    assert (raw["id"], raw["baseIp"], raw["size"]) == (block.id, block.base_ip, 2), raw
    assert [one.id for one in driver.ex_list_public_ip_blocks(world.domain)] == [block.id]
    assert driver.ex_get_public_ip_block(block.id).network_domain.id == world.domain.id
    refused("EXCEEDS_LIMIT", driver.ex_add_public_ip_block_to_network_domain, world.domain)

    rule = driver.ex_create_nat_rule(world.domain, node.private_ips[0], block.base_ip)
    raw = held.one("network/natRule", networkDomainId=world.domain.id)
    assert (raw["id"], raw["internalIp"], raw["externalIp"]) == (rule.id, node.private_ips[0], block.base_ip), raw
    assert held.one("network/reservedPublicIpv4Address", networkDomainId=world.domain.id)["value"] == block.base_ip
    assert [one.external_ip for one in driver.ex_list_nat_rules(world.domain)] == [block.base_ip]
    assert driver.ex_get_nat_rule(world.domain, rule.id).internal_ip == node.private_ips[0]
    refused("IP_ADDRESS_NOT_UNIQUE", driver.ex_create_nat_rule, world.domain, "10.70.0.50", block.base_ip)
    refused("IP_ADDRESS_OUT_OF_RANGE", driver.ex_create_nat_rule, world.domain, "10.70.0.50", "192.0.2.1")
    refused("IP_ADDRESS_OUT_OF_RANGE", driver.ex_create_nat_rule, world.domain, "10.99.0.50", None)
    other = driver.ex_create_nat_rule(world.domain, "10.70.0.50", None)
    refused("NO_IP_ADDRESS_AVAILABLE", driver.ex_create_nat_rule, world.domain, "10.70.0.51", None)
    refused("HAS_DEPENDENCY", driver.ex_delete_public_ip_block, block)
    assert driver.ex_delete_nat_rule(other) and driver.ex_delete_nat_rule(rule)
    refused("RESOURCE_NOT_FOUND", driver.ex_delete_nat_rule, rule)
    assert driver.ex_delete_public_ip_block(block)
    assert held.all("network/publicIpBlock") == [] and held.all("network/natRule") == []


def address(ip=None, prefix=None, port=None, end=None, list_id=None, port_list_id=None):
    return DimensionDataFirewallAddress(
        any_ip=ip is None and list_id is None, ip_address=ip, ip_prefix_size=prefix, port_begin=port, port_end=end,
        address_list_id=list_id, port_list_id=port_list_id,
    )


def rule(world, name, source, destination, action="ACCEPT_DECISIVELY", version="IPV4", protocol="TCP"):
    return DimensionDataFirewallRule(
        id=None, name=name, action=action, location=world.location, network_domain=world.domain, status=None,
        ip_version=version, protocol=protocol, enabled=True, source=source, destination=destination,
    )


@scenario
def firewall_rules():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)

    def order(client_only=True):
        rules = held.all("network/firewallRule", networkDomainId=world.domain.id)
        return [one["name"] for one in rules if one["ruleType"] == "CLIENT_RULE" or not client_only]

    default = ["CCDEFAULT.BlockOutboundMailIPv4", "CCDEFAULT.BlockOutboundMailIPv4Secure", "CCDEFAULT.BlockOutboundMailIPv6",
               "CCDEFAULT.BlockOutboundMailIPv6Secure", "CCDEFAULT.DenyExternalInboundIPv6"]
    assert [one.name for one in driver.ex_list_firewall_rules(world.domain)] == default == order(False)

    web = driver.ex_create_firewall_rule(world.domain, rule(world, "Web", address(), address("198.51.100.2", port="80", end="81")), "LAST")
    raw = held.get("network/firewallRule/" + web.id)
    assert raw["destination"] == {"ip": {"address": "198.51.100.2"}, "port": {"begin": 80, "end": 81}}, raw
    assert raw["source"] == {"ip": {"address": "ANY"}} and raw["enabled"] is True, raw
    assert order(False) == default + ["Web"]
    ssh = driver.ex_create_firewall_rule(world.domain, rule(world, "Ssh", address("192.0.2.0", "24"), address("198.51.100.2", port="22")), "FIRST")
    assert order(False) == ["Ssh"] + default + ["Web"]
    driver.ex_create_firewall_rule(world.domain, rule(world, "Between", address("10.0.0.0", "8"), address(), protocol="IP", action="DROP"), "BEFORE", web)
    driver.ex_create_firewall_rule(world.domain, rule(world, "Behind", address("2001:db8:0:0:0:0:0:0", "64"), address(), version="IPV6", protocol="ICMP"), "AFTER", "Ssh")
    assert order() == ["Ssh", "Behind", "Between", "Web"]
    assert order(False)[:2] == ["Ssh", "Behind"] and order(False)[-2:] == ["Between", "Web"]
    refused("NAME_NOT_UNIQUE", driver.ex_create_firewall_rule, world.domain, rule(world, "web", address(), address()), "LAST")
    refused("RESOURCE_NOT_FOUND", driver.ex_create_firewall_rule, world.domain, rule(world, "Lost", address(), address()), "AFTER", "Nobody")
    refused("INVALID_INPUT_DATA", driver.ex_create_firewall_rule, world.domain, rule(world, "Mixed", address("2001:db8:0:0:0:0:0:1"), address()), "LAST")
    refused("INVALID_INPUT_DATA", driver.ex_create_firewall_rule, world.domain, rule(world, "CCDEFAULT.Mine", address(), address()), "LAST")

    shown = driver.ex_get_firewall_rule(world.domain, web.id)
    assert shown.destination.port_begin == "80" and shown.source.any_ip, shown
    shown.action, shown.source, shown.enabled = "DROP", address("192.0.2.7"), True
    assert driver.ex_edit_firewall_rule(shown, "BEFORE", "Ssh")
    raw = held.get("network/firewallRule/" + web.id)
    assert (raw["action"], raw["source"]) == ("DROP", {"ip": {"address": "192.0.2.7"}}), raw
    assert order() == ["Web", "Ssh", "Behind", "Between"]
    assert driver.ex_set_firewall_rule_state(ssh, False)
    assert held.get("network/firewallRule/" + ssh.id)["enabled"] is False

    deny = [one for one in driver.ex_list_firewall_rules(world.domain) if one.name == default[-1]][0]
    assert driver.ex_set_firewall_rule_state(deny, False)
    assert held.get("network/firewallRule/" + deny.id)["enabled"] is False
    refused("OPERATION_NOT_SUPPORTED", driver.ex_delete_firewall_rule, deny)
    assert driver.ex_delete_firewall_rule(web)
    refused("RESOURCE_NOT_FOUND", driver.ex_delete_firewall_rule, web)
    assert order() == ["Ssh", "Behind", "Between"]


@scenario
def address_and_port_lists():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)

    def lists(kind):
        return {one["name"]: one for one in held.all("network/" + kind, networkDomainId=world.domain.id)}

    offices = [DimensionDataIpAddress("192.0.2.1"), DimensionDataIpAddress("192.0.2.10", end="192.0.2.20"),
               DimensionDataIpAddress("198.51.100.0", prefix_size="24")]
    assert driver.ex_create_ip_address_list(world.domain, "Offices", "where we are", "IPV4", offices)
    raw = lists("ipAddressList")["Offices"]
    assert raw["ipAddress"] == [{"begin": "192.0.2.1"}, {"begin": "192.0.2.10", "end": "192.0.2.20"},
                                {"begin": "198.51.100.0", "prefixSize": 24}], raw
    found = driver.ex_get_ip_address_list(world.domain, "Offices")[0]
    assert [one.begin for one in found.ip_address_collection] == ["192.0.2.1", "192.0.2.10", "198.51.100.0"], found
    assert driver.ex_create_ip_address_list(world.domain, "All", "everybody", "IPV4", [DimensionDataIpAddress("203.0.113.1")], found.id)
    every = driver.ex_get_ip_address_list(world.domain, "All")[0]
    assert [child.name for child in every.child_ip_address_lists] == ["Offices"], every
    refused("NAME_NOT_UNIQUE", driver.ex_create_ip_address_list, world.domain, "offices", "", "IPV4", offices)
    refused("INVALID_INPUT_DATA", driver.ex_create_ip_address_list, world.domain, "Mixed", "", "IPV6", offices)
    refused("INVALID_INPUT_DATA", driver.ex_edit_ip_address_list, found.id, "ring", offices, every.id)
    refused("HAS_DEPENDENCY", driver.ex_delete_ip_address_list, found.id)
    assert driver.ex_edit_ip_address_list(every.id, "alone", [DimensionDataIpAddress("203.0.113.2")])
    raw = lists("ipAddressList")["All"]
    assert (raw["description"], raw["ipAddress"], raw["childIpAddressList"]) == ("alone", [{"begin": "203.0.113.2"}], []), raw

    assert driver.ex_create_portlist(world.domain, "Web", "the web", [DimensionDataPort("80"), DimensionDataPort("8000", "8100")])
    web = driver.ex_list_portlist(world.domain)[0]
    assert lists("portList")["Web"]["port"] == [{"begin": 80}, {"begin": 8000, "end": 8100}]
    assert driver.ex_create_portlist(world.domain, "Open", "open", [DimensionDataPort("22")], [web.id])
    wide = [one for one in driver.ex_list_portlist(world.domain) if one.name == "Open"][0]
    assert [child.name for child in driver.ex_get_portlist(wide.id).child_portlist_list] == ["Web"]
    refused("HAS_DEPENDENCY", driver.ex_delete_portlist, web.id)
    refused("INVALID_INPUT_DATA", driver.ex_create_portlist, world.domain, "Backwards", "", [DimensionDataPort("20", "10")])

    made = driver.ex_create_firewall_rule(
        world.domain, rule(world, "ByList", address(list_id=found.id), address("198.51.100.2", port_list_id=wide.id)), "LAST")
    raw = held.get("network/firewallRule/" + made.id)
    assert raw["source"] == {"ipAddressList": {"id": found.id, "name": "Offices"}}, raw
    assert raw["destination"]["portList"] == {"id": wide.id, "name": "Open"}, raw
    shown = driver.ex_get_firewall_rule(world.domain, made.id)
    assert shown.source.address_list_id == found.id and shown.destination.port_list_id == wide.id, shown
    refused("HAS_DEPENDENCY", driver.ex_delete_ip_address_list, found.id)
    refused("HAS_DEPENDENCY", driver.ex_delete_portlist, wide.id)
    assert driver.ex_edit_portlist(wide.id, "narrow", [DimensionDataPort("22")])
    raw = lists("portList")["Open"]
    assert (raw["description"], raw["childPortList"]) == ("narrow", []), raw
    assert driver.ex_delete_firewall_rule(made)
    assert driver.ex_delete_ip_address_list(every.id) and driver.ex_delete_ip_address_list(found.id)
    assert driver.ex_delete_portlist(wide.id) and driver.ex_delete_portlist(web.id)
    assert lists("ipAddressList") == lists("portList") == {}


@scenario
def monitoring():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    node = world.server("seed")
    assert driver.ex_enable_monitoring(node, "ESSENTIALS")
    raw = world.raw(node)
    assert raw["monitoring"]["servicePlan"] == "ESSENTIALS" and raw["monitoring"]["state"] == "NORMAL", raw
    assert "progress" not in raw, raw
    refused("NO_CHANGE", driver.ex_enable_monitoring, node, "ESSENTIALS")
    assert driver.ex_update_monitoring_plan(node, "ADVANCED")
    assert world.raw(node)["monitoring"]["servicePlan"] == "ADVANCED"
    assert driver.ex_disable_monitoring(node)
    assert "monitoring" not in world.raw(node)
    refused("NO_CHANGE", driver.ex_disable_monitoring, node)


@scenario
def tags():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    node = world.server("seed")
    assert driver.ex_create_tag_key("fleet", "whose it is", value_required=True, display_on_report=False)
    assert driver.ex_create_tag_key("spare", value_required=False)
    refused("NAME_NOT_UNIQUE", driver.ex_create_tag_key, "Fleet")
    key = driver.ex_get_tag_key_by_name("fleet")
    raw = held.get("tag/tagKey/" + key.id)
    assert (raw["name"], raw["description"], raw["valueRequired"], raw["displayOnReport"]) == ("fleet", "whose it is", True, False), raw
    assert driver.ex_get_tag_key_by_id(key.id).description == "whose it is"
    assert [one.name for one in driver.ex_list_tag_keys(value_required=False)] == ["spare"]

    block = driver.ex_add_public_ip_block_to_network_domain(world.domain)
    for asset in (node, world.domain, world.vlan, block):
        assert driver.ex_apply_tag_to_asset(asset, key, "rethink")
    assert driver.ex_apply_tag_to_asset(node, "spare")
    refused("RESOURCE_NOT_FOUND", driver.ex_apply_tag_to_asset, node, "nobody", "x")
    refused("INVALID_INPUT_DATA", driver.ex_apply_tag_to_asset, node, "fleet")
    assert world.raw(node)["tag"] == [{"tagKeyName": "fleet", "value": "rethink"}, {"tagKeyName": "spare"}], world.raw(node)
    kinds = {one["assetType"] for one in held.all("tag/tag", tagKeyName="fleet", value="rethink")}
    assert kinds == {"SERVER", "NETWORK_DOMAIN", "VLAN", "PUBLIC_IP_BLOCK"}, kinds
    mine = driver.ex_list_tags(asset_id=node.id, asset_type="SERVER", location="EU7", tag_key_name="fleet", value="rethink",
                               value_required=True, display_on_report=False)
    assert [(one.asset_name, one.value, one.key.id) for one in mine] == [("seed", "rethink", key.id)], mine
    assert driver.ex_apply_tag_to_asset(node, key, "other")
    assert [one.value for one in driver.ex_list_tags(asset_id=node.id, tag_key_id=key.id)] == ["other"]
    assert driver.ex_modify_tag_key(key, name="owner", description="who", value_required=False, display_on_report=True)
    raw = held.get("tag/tagKey/" + key.id)
    assert (raw["name"], raw["valueRequired"]) == ("owner", False), raw
    refused("NO_CHANGE", driver.ex_modify_tag_key, key, name="owner")
    assert driver.ex_remove_tag_from_asset(node, "spare")
    refused("RESOURCE_NOT_FOUND", driver.ex_remove_tag_from_asset, node, "spare")

    # What is gone takes its tags along; so does a key.
    world.removed(node)
    assert held.all("tag/tag", assetType="SERVER") == []
    assert driver.ex_remove_tag_key(key)
    assert held.all("tag/tag") == []
    refused("RESOURCE_NOT_FOUND", driver.ex_get_tag_key_by_id, key.id)


@scenario
def anti_affinity():
    held, driver = Held(), dimensiondata()
    world = World(driver, held)
    one, two, three = world.server("one"), world.server("two"), world.server("three")
    assert driver.ex_create_anti_affinity_rule([one, two])
    raw = held.one("server/antiAffinityRule", networkDomainId=world.domain.id)
    assert {server["id"] for server in raw["serverSummary"]} == {one.id, two.id}, raw
    assert raw["serverSummary"][0]["networkingDetails"]["networkInfo"]["networkDomainName"] == "RethinkFox", raw
    # "already used in another rule" and "no such rule", in the words of 0.9.
    refused("already used", driver.ex_create_anti_affinity_rule, [two, three])
    refused("ERROR", driver.ex_delete_anti_affinity_rule, "00000000-0000-4000-8000-000000000000")
    assert driver.ex_list_anti_affinity_rules(node=three) == []
    mine = driver.ex_list_anti_affinity_rules(node=one)
    assert [found.id for found in mine] == [raw["id"]] and set(mine[0].node_list) == {one.id, two.id}, mine
    held.settled("server/antiAffinityRule/" + raw["id"])
    mine = driver.ex_list_anti_affinity_rules(network_domain=world.domain, filter_id=raw["id"], filter_state="NORMAL")
    assert driver.ex_delete_anti_affinity_rule(mine[0])
    held.gone("server/antiAffinityRule/" + raw["id"])


@scenario
def older_versions():
    """2.2 and 2.3 have operating system and tools on the server itself, and clone by 0.9."""
    held = Held()
    world = World(dimensiondata(), held)
    node = world.server("seed")
    for version in ("2.2", "2.3"):
        driver = dimensiondata(api_version=version)
        image = driver.ex_get_image_by_id(world.image.id)
        assert image.extra["OS_displayName"] == world.image.extra["OS_displayName"], image.extra
        old = driver.ex_get_node_by_id(node.id)
        assert old.extra["OS_type"] == "UNIX" and len(old.extra["disks"]) == 1, old.extra
        raw = Held(version=version).get("server/server/" + node.id)
        assert "guest" not in raw and raw["operatingSystem"]["family"] == "UNIX" and raw["vmwareTools"], raw
        try:
            driver.ex_clone_node_to_image(node, "copy" + version, "by 0.9")
        except DimensionDataAPIException as error:
            raise AssertionError(error)
        world.settled(node)
    assert sorted(image["name"] for image in held.all("image/customerImage")) == ["copy2.2", "copy2.3"]


@scenario
def ntt_cis():
    """The younger driver: 2.7, disks below controllers, 2.x calls where there were 0.9 ones."""
    held, driver = Held(version="2.7"), nttcis()
    location = driver.ex_get_location_by_id("EU7")
    made = driver.ex_create_network_domain(location, "RethinkFox", "ESSENTIALS")
    held.settled("network/networkDomain/" + made.id)
    domain = driver.ex_get_network_domain(made.id)
    vlan = driver.ex_create_vlan(domain, "front", "10.70.0.0")
    held.settled("network/vlan/" + vlan.id)
    vlan = driver.ex_get_vlan(vlan.id)
    image = driver.list_images(location=location)[0]

    def server(name):
        node = driver.create_node(name, image, NodeAuthPassword("correct horse"), ex_network_domain=domain,
                                  ex_primary_nic_vlan=vlan, ex_is_started=False)
        held.settled("server/server/" + node.id)
        return driver.ex_get_node_by_id(node.id)

    one, two = server("one"), server("two")
    raw = held.get("server/server/" + one.id)
    assert "disk" not in raw and [disk["scsiId"] for disk in raw["scsiController"][0]["disk"]] == [0], raw
    assert [disk.scsi_id for disk in one.extra["disks"]] == [0], one.extra

    def controllers():
        raw = held.settled("server/server/" + one.id)
        return [(disk["scsiId"], disk["sizeGb"], disk["speed"]) for disk in raw["scsiController"][0]["disk"]]

    assert driver.ex_add_storage_to_node(20, node=one)
    assert controllers()[1:] == [(1, 20, "STANDARD")]
    assert driver.ex_add_storage_to_node(30, controller_id=raw["scsiController"][0]["id"], speed="ECONOMY")
    assert controllers()[1:] == [(1, 20, "STANDARD"), (2, 30, "ECONOMY")]
    one = driver.ex_get_node_by_id(one.id)
    disk = [disk for disk in one.extra["disks"] if disk.scsi_id == 1][0]
    assert driver.ex_change_storage_size(disk.id, 40)
    assert controllers()[1] == (1, 40, "STANDARD")
    assert driver.ex_change_storage_speed(disk.id, "HIGHPERFORMANCE")
    assert controllers()[1] == (1, 40, "HIGHPERFORMANCE")
    assert driver.ex_remove_storage(disk.id)
    assert controllers()[1:] == [(2, 30, "ECONOMY")]
    assert driver.ex_reconfigure_node(one, memory_gb=8)
    assert held.settled("server/server/" + one.id)["memoryGb"] == 8
    assert driver.ex_edit_metadata(one, name="first", description="renamed")
    raw = held.get("server/server/" + one.id)
    assert (raw["name"], raw["description"]) == ("first", "renamed"), raw
    assert sorted(node.name for node in driver.list_nodes(ex_network_domain=domain)) == ["first", "two"]

    assert driver.ex_create_anti_affinity_rule([one, two])
    rule_id = held.one("server/antiAffinityRule", serverId=one.id)["id"]
    held.settled("server/antiAffinityRule/" + rule_id)
    refused("CONFIGURATION_NOT_SUPPORTED", driver.ex_create_anti_affinity_rule, [one, two])
    assert driver.ex_delete_anti_affinity_rule(rule_id)
    held.gone("server/antiAffinityRule/" + rule_id)

    assert driver.ex_reserve_ip(vlan, "10.70.0.200", "for later")
    kept = [found for found in driver.ex_list_reserved_ipv4(vlan=vlan) if found.ip == "10.70.0.200"]
    assert [(found.description, found.exclusive) for found in kept] == [("for later", "false")], kept
    assert {found.ip for found in driver.ex_list_reserved_ipv4(vlan=vlan)} == {"10.70.0.7", "10.70.0.8", "10.70.0.200"}
    ipv6 = vlan.ipv6_range_address.rsplit(":", 1)[0] + ":abc"
    assert driver.ex_reserve_ip(vlan, ipv6, None)
    assert ipv6 in {found.ip for found in driver.ex_list_reserved_ipv6(vlan=vlan)}
    assert driver.ex_unreserve_ip_addresses(vlan, ipv6)
    assert ipv6 not in {found["ipAddress"] for found in held.all("network/reservedIpv6Address")}
    refused("IP_ADDRESS_NOT_UNIQUE", driver.ex_reserve_ip, vlan, "10.70.0.200", None)

    block = driver.ex_add_public_ip_block_to_network_domain(domain)
    nat = driver.ex_create_nat_rule(domain, "10.70.0.7", block.base_ip)
    assert held.get("network/natRule/" + nat.id)["externalIp"] == block.base_ip
    from libcloud.common.nttcis import NttCisFirewallAddress, NttCisIpAddress

    web = driver.ex_create_firewall_rule(
        domain, "Web", "ACCEPT_DECISIVELY", "IPV4", "TCP", NttCisFirewallAddress(any_ip=True),
        NttCisFirewallAddress(ip_address=block.base_ip, port_begin="80"), "FIRST", enabled="true")
    assert held.all("network/firewallRule", networkDomainId=domain.id)[0]["id"] == web.id
    assert driver.ex_create_ip_address_list(domain, "Offices", "where we are", "IPV4", [NttCisIpAddress("192.0.2.1")])
    office = driver.ex_get_ip_address_list(domain, "Offices")[0]
    # What an edit does not name stays.
    assert driver.ex_edit_ip_address_list(office.id, description="nil")
    raw = held.one("network/ipAddressList", networkDomainId=domain.id)
    assert "description" not in raw and raw["ipAddress"] == [{"begin": "192.0.2.1"}], raw
    assert driver.ex_delete_nat_rule(nat) and driver.ex_delete_firewall_rule(web)
    for node in (one, two):
        assert driver.destroy_node(node)
        held.gone("server/server/" + node.id)


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
    print("done:", sys.argv[1])
