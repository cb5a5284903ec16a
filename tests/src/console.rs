//! A shell on a machine's serial console, as a person at it would have.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// A console with a root shell behind it.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    turn: u32,
}

impl Console {
    /// Opens the console's socket.
    #[track_caller]
    pub fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap_or_else(|why| panic!("{}: {why}", socket.display()));
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket takes a timeout");
        Self { stream, turn: 0 }
    }

    /// Runs one line of shell and returns its exit status and output. Panics after `deadline`.
    #[track_caller]
    pub fn run(&mut self, line: &str, deadline: Duration) -> (i32, String) {
        self.turn += 1;
        // Split by the empty quotes, the markers stand whole in the answer only, not in the echo of the line.
        let (begin, end) = (format!("BEGIN{}x", self.turn), format!("END{}x", self.turn));
        let typed = format!(
            "\nPS1=; stty -echo; echo BEG''IN{0}x; ( {line} ) </dev/null 2>&1; echo EN''D{0}x $?\n",
            self.turn
        );
        let started = Instant::now();
        self.stream.write_all(typed.as_bytes()).expect("the console takes input");
        let mut said = String::new();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the console closed after:\n{said}"),
                Ok(count) => said.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(why) => panic!("read the console: {why}"),
            }
            let answer = said.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
            if let Some((output, status)) = answer
                && let Some((status, _)) = status.split_once('\n')
            {
                let status = status.trim().parse().unwrap_or_else(|why| panic!("{why}: status {status:?}"));
                return (status, output.replace('\r', "").trim().to_owned());
            }
            assert!(
                started.elapsed() < deadline,
                "`{line}` on the console: no end within {deadline:?}:\n{said}"
            );
        }
    }

    /// Runs one line of shell that must succeed; returns its output.
    #[track_caller]
    pub fn expect(&mut self, line: &str) -> String {
        let (status, output) = self.run(line, Duration::from_secs(60));
        assert_eq!(status, 0, "`{line}`:\n{output}");
        output
    }
}
