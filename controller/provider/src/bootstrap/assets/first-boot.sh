#!/bin/sh
# First boot of node @NODE@ of fleet @FLEET@; written by the fleet's controller, run by cloud-init.
# Installs the supervisor and the agent that follow this script, checks their digests, starts them. Safe to run again.
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

# place FILE MODE: what it is told becomes FILE, the whole of it or nothing, and a power cut leaves it there.
place() {
    cat >"$1.new" || fail "write $1"
    step "write $1" chmod "$2" "$1.new"
    step "write $1" sync "$1.new"
    step "write $1" mv "$1.new" "$1"
    step "write $1" sync "${1%/*}"
}

step "make $lib" mkdir -p "$lib" /etc/fleet-agent
step "make $lib readable" chmod 755 "$lib"
step "make $lib" sync "${lib%/*}" /etc/
place "$lib/report.py" 600 <<'REPORT'
@REPORT@
REPORT
place /etc/fleet-agent/enrol.json 600 <<'ENROL'
@ENROL@
ENROL
place /etc/systemd/system/fleet-agent.service 644 <<'UNIT'
@UNIT@
UNIT
say seed-read

free=$(df -Pk "$lib" | awk 'NR == 2 { print $4 }')
[ "${free:-0}" -ge @NEED_KIB@ ] ||
    fail "unpack the agent: $lib has ${free:-0} KiB free, @NEED_KIB@ are needed"
# unpack NAME DIGEST LINES: what those lines below hold, to NAME.new.
unpack() {
    sed "$3" "$0" | base64 -d 2>/dev/null | gunzip -c >"$lib/$1.new" 2>/dev/null
    got=$(sha256sum "$lib/$1.new" | cut -d ' ' -f 1)
    if [ "$got" != "$2" ]; then
        rm -f "$lib/$1.new"
        fail "unpack $1: its digest is $got, not $2: damaged in transfer"
    fi
    step "install $1" chmod 755 "$lib/$1.new"
    sync "$lib/$1.new"
}
unpack fleet-supervisor @SUPERVISOR_SHA256@ '1,/^__SUPERVISOR__$/d;/^__AGENT__$/,$d'
unpack fleet-agent @SHA256@ '1,/^__AGENT__$/d'
step "install fleet-supervisor" mv "$lib/fleet-supervisor.new" "$lib/fleet-supervisor"
step "install fleet-supervisor" sync "$lib"
# A node that has an agent in a slot already keeps that one: what it runs is for releases to say.
version=$("$lib/fleet-agent.new" --version 2>/dev/null | cut -d ' ' -f 2)
step "install fleet-agent" "$lib/fleet-supervisor" adopt "$lib/fleet-agent.new" "${version:-unknown}"
rm -f "$lib/fleet-agent.new"
say agent-unpacked

step "enable fleet-agent.service" systemctl daemon-reload
step "enable fleet-agent.service" systemctl enable --quiet fleet-agent.service
# What enables it is a name in one of these: once enrolled, the node must come up with its agent after any power cut.
for folder in /etc/systemd/system/*.wants /etc/systemd/system/; do
    [ ! -d "$folder" ] || step "enable fleet-agent.service" sync "$folder"
done
if ! systemctl restart fleet-agent.service; then
    fail "start fleet-agent.service: $(journalctl -u fleet-agent.service -n 1 -o cat 2>/dev/null)"
fi
# Where the agent was before there was a supervisor.
rm -f "$lib/fleet-agent"
say agent-started
wait
exit 0
__SUPERVISOR__
