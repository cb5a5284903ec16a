#!/bin/sh
# First boot of node @NODE@ of fleet @FLEET@; written by the fleet's controller, run by cloud-init.
# Installs the agent that follows this script, checks its digest, starts it. Safe to run again.
# The token in here is single-use, expires, and is worthless once the agent has enrolled.
set -u
umask 077
lib=/usr/local/lib/fleet

# Two ways home: this line for whoever runs cloud-init by hand, and a report to the controller. The second is
# spared when the controller itself is watching, but for a failure.
say() {
    printf 'fleet-first-boot: %s %s\n' "$1" "${2-}"
    [ -n "${FLEET_WATCHED-}" ] && [ "$1" != failed ] && return
    if [ -f "$lib/report.py" ] && command -v python3 >/dev/null; then
        python3 "$lib/report.py" "$1" "${2-}" >/dev/null 2>&1 &
    fi
}
fail() {
    say failed "$1"
    wait
    exit 1
}
# step WHAT COMMAND...: runs it; what it said last is the reason if it fails.
step() {
    what=$1
    shift
    out=$("$@" 2>&1) || fail "$what: $(printf '%s' "$out" | tail -n 1)"
}

step "make $lib" mkdir -p "$lib" /etc/fleet-agent
step "make $lib readable" chmod 755 "$lib"
cat >"$lib/report.py" <<'REPORT' || fail "write $lib/report.py"
@REPORT@
REPORT
cat >/etc/fleet-agent/enrol.json <<'ENROL' || fail "write /etc/fleet-agent/enrol.json"
@ENROL@
ENROL
cat >/etc/systemd/system/fleet-agent.service <<'UNIT' || fail "write fleet-agent.service"
@UNIT@
UNIT
chmod 644 /etc/systemd/system/fleet-agent.service
say seed-read

free=$(df -Pk "$lib" | awk 'NR == 2 { print $4 }')
[ "${free:-0}" -ge @NEED_KIB@ ] ||
    fail "unpack the agent: $lib has ${free:-0} KiB free, @NEED_KIB@ are needed"
sed '1,/^__AGENT__$/d' "$0" | base64 -d 2>/dev/null | gunzip -c >"$lib/fleet-agent.new" 2>/dev/null
got=$(sha256sum "$lib/fleet-agent.new" | cut -d ' ' -f 1)
if [ "$got" != @SHA256@ ]; then
    rm -f "$lib/fleet-agent.new"
    fail "unpack the agent: its digest is $got, not @SHA256@: damaged in transfer"
fi
step "install the agent" chmod 755 "$lib/fleet-agent.new"
sync "$lib/fleet-agent.new"
step "install the agent" mv "$lib/fleet-agent.new" "$lib/fleet-agent"
say agent-unpacked

step "enable fleet-agent.service" systemctl daemon-reload
step "enable fleet-agent.service" systemctl enable --quiet fleet-agent.service
if ! systemctl restart fleet-agent.service; then
    fail "start fleet-agent.service: $(journalctl -u fleet-agent.service -n 1 -o cat 2>/dev/null)"
fi
say agent-started
wait
exit 0
__AGENT__
