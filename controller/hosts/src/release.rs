//! Gives a machine back: what was put there goes, the mark last, and everything else stays.

use crate::{
    door::{DoorError, Entrance},
    mark::{FILE, Mark},
    script::quoted,
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is nobody's now; what is left there that the fleet's tasks made.
    Now(Vec<String>),
    /// It was not ours any more, and was left alone.
    Before,
    /// Nothing answered where it should be, for this reason: whatever was there may be there still.
    Unseen(String),
}

/// Releases the machine that `mark` is on. May be done again.
///
/// # Errors
/// [`DoorError`]: something did not go, and the mark is still there.
pub async fn release(entrance: &Entrance, mark: &Mark) -> Result<Released, DoorError> {
    let (mut left, mut stays, mut end) = (Vec::new(), Vec::new(), None);
    entrance
        .run(&script(mark), |line| {
            let Some(said) = line.strip_prefix("fleet-release: ") else { return };
            match said.split_once(' ').unwrap_or((said, "")) {
                ("left", what) => left.push(what.to_owned()),
                ("stays", what) => stays.push(what.to_owned()),
                ("foreign", _) => end = Some(false),
                ("done", _) => end = Some(true),
                _ => {}
            }
        })
        .await?;
    match end {
        Some(false) => Ok(Released::Before),
        Some(true) if stays.is_empty() => Ok(Released::Now(left)),
        _ if stays.is_empty() => Err(DoorError::shut("releasing it broke off; run it again".to_owned())),
        _ => Err(DoorError::shut(format!(
            "{} could not be removed there; see why, and run it again",
            stays.join(", ")
        ))),
    }
}

/// The application runs from the agent's folder, and the database's server lives on certificates that nobody renews
/// any more: both stop. What they hold stays, as does whatever the plan's tasks installed.
fn script(mark: &Mark) -> String {
    format!(
        r#"umask 077
say() {{ printf 'fleet-release: %s %s\n' "$1" "$2"; }}
grep -qxF {line} {FILE} 2>/dev/null || {{ say foreign ''; exit 0; }}
for unit in fleet-agent fleet-todo rethinkdb@fleet; do
    systemctl disable --now "$unit.service" >/dev/null 2>&1
    systemctl is-active --quiet "$unit.service" && say stays "$unit.service"
done
rm -f /etc/systemd/system/fleet-agent.service /etc/systemd/system/fleet-todo.service /etc/rethinkdb/tls/key.pem
systemctl daemon-reload
systemctl reset-failed fleet-agent.service fleet-todo.service rethinkdb@fleet.service >/dev/null 2>&1
begin=$(grep -c '^# BEGIN fleet (' /etc/hosts)
end=$(grep -c '^# END fleet$' /etc/hosts)
if [ "$begin$end" = 11 ]; then
    # As it was but for the block, and whole whenever the power fails; one that is mounted there cannot be put in place.
    new=/etc/hosts.fleet
    cp -p /etc/hosts "$new" && sed '/^# BEGIN fleet (/,/^# END fleet$/d' /etc/hosts >"$new" && sync "$new" &&
        {{ mv -f "$new" /etc/hosts || cat "$new" >/etc/hosts; }} || say stays 'the block in /etc/hosts'
    rm -f "$new"
    # It was made for the block alone.
    [ -s /etc/hosts ] || rm -f /etc/hosts
fi
rm -rf /usr/local/lib/fleet /var/lib/fleet-agent /run/fleet-supervisor /run/fleet-first-boot.lock
find /etc/fleet-agent -mindepth 1 ! -name host.json -delete
for path in /usr/local/lib/fleet /var/lib/fleet-agent /etc/systemd/system/fleet-agent.service; do
    [ -e "$path" ] && say stays "$path"
done
[ -d /var/lib/rethinkdb/fleet ] && say left 'the database in /var/lib/rethinkdb/fleet, its server stopped'
rm -f {FILE} && rmdir /etc/fleet-agent || say stays /etc/fleet-agent
say done ''
"#,
        line = quoted(&mark.line()),
    )
}
