# Tells the controller how far this first boot is. Standard library only: it must work when the agent is
# missing or damaged. Trusts nothing but the certificates of the seed.
import json, socket, ssl, sys, time

seed = json.load(open("/etc/fleet-agent/enrol.json"))
context = ssl.create_default_context(cadata=seed["trust_bundle"])
body = json.dumps({"token": seed["token"], "stage": sys.argv[1], "failure": sys.argv[2][:2048],
                   "node_time_ms": int(time.time() * 1000)}).encode()
name = "controller." + seed["fleet"].lower()
for address in seed["enrol_addresses"]:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), 10) as plain:
            with context.wrap_socket(plain, server_hostname=name) as link:
                link.sendall(b"POST /first-boot HTTP/1.1\r\nHost: " + name.encode() +
                             b"\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
                             str(len(body)).encode() + b"\r\n\r\n" + body)
                link.recv(512)
        break
    except OSError as error:
        print(address, error, file=sys.stderr)
