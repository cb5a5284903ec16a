//! An agent that behaves as the last line of its own file says. Test equipment.

use std::{env, fs, io::Write, os::unix::net::UnixDatagram, process, thread, time::Duration};

/// Told to go it goes in order, as the real one does.
extern "C" fn leave(_: i32) {
    // SAFETY: lawful in a handler; nothing here is left half done.
    unsafe { libc::_exit(0) };
}

fn main() {
    // SAFETY: the handler does nothing but end this process.
    unsafe { libc::signal(libc::SIGTERM, leave as *const () as libc::sighandler_t) };
    let program = fs::read(env::current_exe().expect("own path")).expect("own file");
    let tail = String::from_utf8_lossy(&program[program.len().saturating_sub(200)..]).into_owned();
    let line = tail.lines().last().unwrap_or_default();
    let mut words = line.split(' ').skip(1);
    let (version, manner) = (words.next().unwrap_or("?"), words.next().unwrap_or("good"));
    if let Ok(path) = env::var("DUMMY_LOG") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(path).expect("log");
        let line = format!("{version} {}\n", process::id());
        log.write_all(line.as_bytes()).expect("log");
    }
    let tell = |text: String| {
        let socket = env::var("NOTIFY_SOCKET").expect("told where to notify");
        // A supervisor that was just killed hears nothing more.
        let _ = UnixDatagram::unbound().and_then(|from| from.send_to(text.as_bytes(), socket));
    };
    let trial = env::var("FLEET_TRIAL").ok();
    match manner {
        "crash" => process::exit(3),
        // It served once, and no more.
        "spent" if trial.is_none() => process::exit(3),
        "gone" => process::exit(0),
        "hang" => sleep_for_ever(),
        "greedy" => {
            let block = vec![1_u8; 1 << 30];
            process::exit(i32::from(block[block.len() - 1]) + 3);
        }
        _ => (),
    }
    tell("READY=1\nSTATUS=at work".to_owned());
    for turn in 0_u64.. {
        // The sign of life also tells whether anybody is there.
        tell("WATCHDOG=1".to_owned());
        match (manner, &trial) {
            ("uncommitted" | "silent", _) => (),
            ("farewell", _) => {
                tell("STOPPING=1".to_owned());
                process::exit(5);
            }
            ("extending", Some(_)) if turn < 300 => tell("X_FLEET_EXTEND=1".to_owned()),
            ("lonely", Some(_)) => tell("X_FLEET_EXTEND=1".to_owned()),
            (_, Some(digest)) => tell(format!("X_FLEET_COMMIT={digest}")),
            (_, None) => (),
        }
        if manner == "silent" {
            sleep_for_ever();
        }
        // Far on the other side of its commit, which takes one turn.
        match manner {
            "late" if turn == 10 => process::exit(4),
            "leaves" if turn == 10 => process::exit(0),
            _ => (),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn sleep_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
