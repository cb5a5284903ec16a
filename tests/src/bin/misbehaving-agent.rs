//! An agent that goes wrong as the last line of its own file says. Test equipment; no release of ours has it.
//!
//! What works of it is the real agent: it enrols, dials home, does its node's work and commits. The words are
//! `MISBEHAVE` and one of: `crash` (at start), `hang` (at start), `unready` (alive, and never ready), `late SECONDS`
//! (healthy until then, whenever it starts), `greedy` (takes memory without end).

use std::{env, error::Error, fs, process, thread, time::Duration};

use fleet_agent::Settings;
use fleet_program::{log, tell_systemd};
use fleet_supervisor::agent::Supervised;
use tokio_util::sync::CancellationToken;

/// Taken at once, again and again.
const BLOCK: usize = 16 << 20;
/// No node of a test has that much; the host would have.
const BLOCKS: usize = 64;
/// As long as nobody ends it.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

fn main() -> Result<(), Box<dyn Error>> {
    let program = fs::read(env::current_exe()?)?;
    let tail = String::from_utf8_lossy(&program[program.len().saturating_sub(64)..]).into_owned();
    drop(program);
    let mut words =
        tail.lines().last().and_then(|line| line.strip_prefix("MISBEHAVE ")).unwrap_or_default().split(' ');
    match words.next().unwrap_or_default() {
        "crash" => process::exit(3),
        "hang" => thread::sleep(FOR_EVER),
        "unready" => loop {
            tell_systemd("WATCHDOG=1");
            thread::sleep(Duration::from_millis(200));
        },
        "late" => {
            let seconds: f64 = words.next().unwrap_or_default().parse()?;
            thread::spawn(move || {
                thread::sleep(Duration::from_secs_f64(seconds));
                process::exit(4);
            });
        }
        "greedy" => {
            let mut taken = Vec::new();
            for _ in 0..BLOCKS {
                taken.push(vec![1_u8; BLOCK]);
            }
            // Somebody reads it, or it would never be taken.
            eprintln!(
                "it had {} blocks, and more than there should be",
                taken.iter().filter(|b| b[7] == 1).count()
            );
        }
        other => return Err(format!("`{other}` is no way to misbehave").into()),
    }
    work()
}

/// What the real agent's program does.
fn work() -> Result<(), Box<dyn Error>> {
    log()?;
    let mut settings = Settings::new("/");
    settings.supervised = Supervised::from_env();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tell_systemd("READY=1");
        tokio::spawn(async {
            loop {
                tell_systemd("WATCHDOG=1");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(fleet_agent::run(settings, CancellationToken::new()).await?)
    })
}
