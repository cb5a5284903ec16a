//! Programs side by side: those of a lane one after the other, the lanes at the same time.
//!
//! Lines of two programs never mix: what one says goes into a file, to be read while it runs, and is printed whole when
//! it ends. All share our process group, so that Ctrl-C ends them with us; whoever kills us alone ends them as well.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::run::Done;

/// How long a job may take. None takes half of it, and one that hangs is to be told of before whoever runs all of this
/// gives up.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Something to run.
pub struct Job {
    /// What it is called.
    pub name: String,
    /// How it is run.
    pub command: Command,
}

/// Programs that run one after the other.
pub struct Lane {
    /// What it is called.
    pub name: &'static str,
    /// In the order in which they run.
    pub jobs: Vec<Job>,
}

/// How a job ended.
pub struct Ended {
    lane: &'static str,
    name: String,
    took: Duration,
    outcome: Done,
    said: PathBuf,
}

/// Runs every job of every lane, whatever becomes of the others; an error names each that failed.
pub fn run(lanes: Vec<Lane>, folder: &Path) -> Done {
    run_within(lanes, folder, LIMIT)
}

fn run_within(lanes: Vec<Lane>, folder: &Path, limit: Duration) -> Done {
    // What an earlier run left would pass for this one's.
    let emptied = match fs::remove_dir_all(folder) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => fs::create_dir_all(folder),
    };
    emptied.map_err(|why| format!("empty {}: {why}", folder.display()))?;
    let started = Instant::now();
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for lane in lanes {
            let ended = &ended;
            scope.spawn(move || {
                for job in lane.jobs {
                    let one = work(lane.name, job, folder, limit);
                    // Held while it is told: outputs follow each other.
                    let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                    tell(&one);
                    ended.push(one);
                }
            });
        }
    });
    let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprint!("{}", table(&ended, started.elapsed()));
    let failed: Vec<String> = ended
        .iter()
        .filter_map(|one| {
            Some(format!("{}: {}; {}", one.name, one.outcome.as_ref().err()?, one.said.display()))
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} failed:\n  {}", failed.len(), ended.len(), failed.join("\n  ")))
}

/// Runs one job to its end, or ends it.
fn work(lane: &'static str, job: Job, folder: &Path, limit: Duration) -> Ended {
    let said = folder.join(format!("{}.log", job.name.replace([' ', '/'], "-")));
    eprintln!("xtask: {lane}: {} begins: {}", job.name, said.display());
    let started = Instant::now();
    // Appending, so that what comes by the two ways keeps its order.
    let ran = fs::File::options().create(true).append(true).open(&said).and_then(|output| {
        let errors = output.try_clone()?;
        let mut child = tied(&job.command).stdin(Stdio::null()).stdout(output).stderr(errors).spawn()?;
        within(&mut child, started, limit)
    });
    let outcome = match ran {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("ended with {status}")),
        Ok(None) => Err(format!("hangs: was ended after {} s", limit.as_secs())),
        Err(why) => Err(format!("start it: {why}")),
    };
    Ended { lane, name: job.name, took: started.elapsed(), outcome, said }
}

/// Waits until it ends; `None` if it had to be ended.
fn within(child: &mut Child, started: Instant, limit: Duration) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The same command, ended by the kernel when this process is gone, however that came.
fn tied(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    tied
}

/// Prints all that a job said.
fn tell(one: &Ended) {
    let text =
        fs::read(&one.said).unwrap_or_else(|why| format!("{}: {why}\n", one.said.display()).into_bytes());
    let mut out = io::stdout().lock();
    // Nobody listens: fine, the table and our status tell the same.
    let _ = writeln!(out, "\n     Running {}", one.name)
        .and_then(|()| out.write_all(&text))
        .and_then(|()| out.flush());
    let outcome = one.outcome.as_ref().map_or_else(Clone::clone, |()| "passed".to_owned());
    eprintln!("xtask: {}: {} {outcome} after {:.1} s", one.lane, one.name, one.took.as_secs_f32());
}

/// Time per job, lane by lane, longest first.
fn table(ended: &[Ended], whole: Duration) -> String {
    let mut rows: Vec<&Ended> = ended.iter().collect();
    rows.sort_by(|a, b| a.lane.cmp(b.lane).then(b.took.cmp(&a.took)));
    let mut text = String::from("\n  seconds  lane      tests\n");
    for row in &rows {
        let mark = if row.outcome.is_ok() { "" } else { "   FAILED" };
        text += &format!("{:9.1}  {:<8}  {}{mark}\n", row.took.as_secs_f32(), row.lane, row.name);
    }
    let sum: f32 = rows.iter().map(|row| row.took.as_secs_f32()).sum();
    text + &format!("{:9.1}  in all, of {sum:.1} one after the other\n\n", whole.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { name: name.to_owned(), command }
    }

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-lanes-{name}-{}", std::process::id()))
    }

    fn in_time<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not in time");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lanes_run_at_once_and_every_failure_is_told() {
        let folder = folder("both");
        let [here, there] = ["here", "there"].map(|name| folder.join(name).display().to_string());
        // Each lane waits for the other: one after the other they would fail.
        let meet =
            |mine: &str, other: &str| format!("touch {mine}; until [ -e {other} ]; do sleep 0.01; done");
        let lanes = vec![
            Lane {
                name: "a",
                jobs: vec![
                    shell("one", &meet(&here, &there)),
                    shell("two", "echo out; echo err >&2; exit 3"),
                ],
            },
            Lane {
                name: "b",
                jobs: vec![
                    shell("three", &meet(&there, &here)),
                    shell("four", "kill -9 $$"),
                    shell("five", ""),
                ],
            },
        ];
        let failed = run(lanes, &folder).expect_err("two of them fail");
        assert!(failed.starts_with("2 of 5 failed:"), "{failed}");
        assert!(
            failed.contains("two: ended with exit status: 3")
                && failed.contains("four: ended with signal: 9"),
            "{failed}"
        );
        assert_eq!(fs::read_to_string(folder.join("two.log")).expect("what it said"), "out\nerr\n");
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn what_cannot_start_has_failed() {
        let folder = folder("none");
        let job = Job { name: "nothing".to_owned(), command: Command::new("/nonexistent/program") };
        let failed = run(vec![Lane { name: "a", jobs: vec![job] }], &folder).expect_err("it is not there");
        assert!(failed.starts_with("1 of 1 failed:"), "{failed}");
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn what_hangs_is_ended_and_the_rest_of_its_lane_runs() {
        let folder = folder("hangs");
        let jobs = vec![shell("for-ever", "echo begun; exec sleep 600"), shell("after", "echo after")];
        let failed = run_within(vec![Lane { name: "a", jobs }], &folder, Duration::from_secs(2))
            .expect_err("one of them hangs");
        assert!(failed.starts_with("1 of 2 failed:") && failed.contains("for-ever: hangs"), "{failed}");
        let said = |name: &str| fs::read_to_string(folder.join(name)).expect("what it said");
        assert_eq!((said("for-ever.log"), said("after.log")), ("begun\n".to_owned(), "after\n".to_owned()));
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn who_is_killed_takes_its_jobs_along() {
        // A stand-in for us: it starts a job as we do, and is killed.
        let folder = folder("killed");
        fs::create_dir_all(&folder).expect("a folder");
        let (pid, mut job) = (folder.join("pid"), shell("", ""));
        job.command = Command::new("sh");
        job.command
            .arg("-c")
            .arg(format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display()));
        let tied = tied(&job.command);
        let words: Vec<String> = std::iter::once(tied.get_program())
            .chain(tied.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let mut parent =
            Command::new("sh").arg("-c").arg(format!("{} & wait", words.join(" "))).spawn().expect("sh");
        let child = in_time(|| fs::read_to_string(&pid).ok());
        parent.kill().expect("it runs");
        parent.wait().expect("it ends");
        let stat = format!("/proc/{}/stat", child.trim());
        // One that ended but that nobody has waited for is a zombie.
        in_time(|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(()));
        fs::remove_dir_all(folder).expect("removed");
    }
}
